package mode

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"testing"
	"time"
)

// TestADirectoryThatOthersMakeAndRemoveIsTakenOrGone: helpers of a VM create and
// remove its runtime directory concurrently, and get only these two errors.
func TestADirectoryThatOthersMakeAndRemoveIsTakenOrGone(t *testing.T) {
	dir := t.TempDir() + "/web"
	var wait sync.WaitGroup
	end := time.Now().Add(300 * time.Millisecond)
	for range 3 {
		wait.Go(func() {
			for time.Now().Before(end) {
				err := Dir(dir, Public)
				if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
					return
				}
				_ = os.Remove(dir)
			}
		})
	}
	wait.Wait()
}
