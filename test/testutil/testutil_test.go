package testutil

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// failing is a test that may fail.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestUntilWaitsForTheCondition(t *testing.T) {
	calls := 0
	Until(t, "three calls", func() bool { calls++; return calls == 3 })
	if calls != 3 {
		t.Errorf("%d calls, want 3", calls)
	}
}

func TestUntilFailsATestThatWaitsTooLong(t *testing.T) {
	f := &failing{TB: t}
	end := make(chan struct{})
	went := false
	go func() {
		defer close(end)
		until(f, 10*time.Millisecond, "the end of time", func() bool { return false })
		went = true
	}()
	<-end
	if went || !strings.Contains(f.said, "10ms for the end of time") {
		t.Errorf("it went on: %t, and failed with %q", went, f.said)
	}
}

func TestABufferTakesTextFromSeveralGoroutines(t *testing.T) {
	var b Buffer
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { _, _ = fmt.Fprint(&b, "text ") })
	}
	all.Wait()
	if got := b.String(); got != strings.Repeat("text ", 10) {
		t.Errorf("%q", got)
	}
}
