package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// UserOf returns the user of a process, whose real, effective, saved and file
// system IDs have to be the same, proc_pid_status(5). The owner of /proc/PID is not
// asked: it is root for a process that may not be dumped.
func UserOf(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		label, rest, _ := strings.Cut(line, ":")
		if label != "Uid" {
			continue
		}
		ids := strings.Fields(rest)
		if len(slices.Compact(ids)) != 1 {
			return 0, errors.New("it has several users")
		}
		return strconv.Atoi(ids[0])
	}
	return 0, errors.New("it has no user")
}

// SameUnit reports whether a process is of the unit that this one is of. Its
// number may mean another since the service manager told it to us.
func SameUnit(pid int) bool {
	// A unit with Delegate= has its control processes in a group of their own.
	const control = "/.control"
	ours, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return true
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH)
	}
	return bytes.Equal(bytes.ReplaceAll(ours, []byte(control), nil), theirs)
}
