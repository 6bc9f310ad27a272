package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNoTwoTestsOfTheVMHostHaveOneName, for one that has passed is left out of all
// binaries when a VM host is booted again.
func TestNoTwoTestsOfTheVMHostHaveOneName(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^TESTS_vm +:= (.+)$`).FindSubmatch(makefile)
	if line == nil {
		t.Fatal("the Makefile has no TESTS_vm")
	}
	where := map[string]string{}
	for _, dir := range strings.Fields(string(line[1])) {
		files, err := filepath.Glob("../../" + dir + "/*_test.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s has no tests: %v", dir, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(\w+ \*testing\.[TF]\)`).FindAllSubmatch(text, -1) {
				if other := where[string(m[1])]; other != "" {
					t.Errorf("%s is in %s and in %s", m[1], other, dir)
				}
				where[string(m[1])] = dir
			}
		}
	}
	if len(where) < 50 {
		t.Errorf("only %d tests were found", len(where))
	}
}

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

// TestOnlyAnEmulatedCPUMayBringAVMHostDown, after which the tests go on in another.
func TestOnlyAnEmulatedCPUMayBringAVMHostDown(t *testing.T) {
	for accel, want := range map[string]bool{"": true, "tcg": true, "tcg,thread=single": true, "kvm": false, "kvm:tcg": false} {
		t.Setenv("MICROVM_TEST_ACCEL", accel)
		if got := emulated(); got != want {
			t.Errorf("MICROVM_TEST_ACCEL=%q is emulated: %t, want %t", accel, got, want)
		}
	}
}
