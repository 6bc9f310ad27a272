// Package testutil holds what the tests of several packages need. What a test asks
// of its machine is in test/need.
package testutil

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Limit is how long Until waits: many times what anything takes that a unit test
// waits for, on a machine that is busy with something else.
const Limit = time.Minute

// Until waits until done returns true, and fails the test if it has not within Limit;
// what names the condition in the failure. It calls done every two milliseconds, on
// the goroutine of its caller, which has to be the test's own.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	until(t, Limit, what, done)
}

func until(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", limit, what)
		}
	}
}

// Buffer is a bytes.Buffer that several goroutines may write to and read, such as a
// log. The zero value is an empty one.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends p. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns all that was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
