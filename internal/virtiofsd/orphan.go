package virtiofsd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// killOrphans ends what a virtiofsd left behind when it was killed: children
// that came to this process as their reaper and are no virtiofsd of its own.
// While it looks, no virtiofsd can be started.
func (s *supervisor) killOrphans() {
	own := map[int]bool{}
	for _, sv := range s.shares {
		sv.mu.Lock()
		defer sv.mu.Unlock()
		own[sv.pid] = true
	}
	for _, pid := range children() {
		if own[pid] {
			continue
		}
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = wait(pid)
	}
}

// children are the processes whose parent this one is, proc_pid_task(5).
func children() []int {
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil
	}
	var pids []int
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // below /proc
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
