package main

import (
	"slices"
	"testing"
)

func TestAnotherVMHostGoesOnWhereTheFirstWentDown(t *testing.T) {
	v := &vmHost{}
	command := []string{"suite", "-test.run", "A"}
	if got := v.without(command); !slices.Equal(got, command) {
		t.Errorf("at first it runs %q", got)
	}
	for _, line := range []string{"=== RUN   TestA", "--- PASS: TestA (0.10s)", "    --- PASS: TestA/b (0.10s)", "--- SKIP: TestB (0.00s)", "=== RUN   TestC", "--- PASS: TestD (1.00s)"} {
		v.result(line)
	}
	if got := v.without(command); !slices.Equal(got, append(command, "-test.skip", "^(TestA|TestD)$")) {
		t.Errorf("then it runs %q", got)
	}
	if v.failed {
		t.Error("no test failed")
	}
	if v.result("--- FAIL: TestC (1.00s)"); !v.failed {
		t.Error("a test that failed passes in another VM host")
	}
}
