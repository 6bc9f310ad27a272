package vm

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"microvm/internal/unit"
)

// cgroupRoot is the mount point of the control groups, cgroups(7).
const cgroupRoot = "/sys/fs/cgroup"

// clockTicks is the number of ticks per second in /proc: sysconf(_SC_CLK_TCK), which is
// 100 on every architecture of Linux, proc_pid_stat(5).
const clockTicks = 100

// usage is what the processes of a unit use.
type usage struct {
	memory uint64 // bytes
	cpu    time.Duration
	// since is when the oldest process was started.
	since time.Time
}

// cgroups finds the control groups of units.
type cgroups struct {
	root string
	// moved are the control groups of VMs outside of the slice of their template, by
	// unit. It is filled when the first unit is not found in the slice.
	moved map[string]string
}

// dir returns the control group of a VM's unit. An instance is in a slice that is named
// after its template, systemd.slice(5), unless Slice= is set.
func (c *cgroups) dir(name string) (string, bool) {
	for _, hierarchy := range []string{"", "unified", "systemd"} {
		dir := filepath.Join(c.root, hierarchy, unit.Slice, name)
		if _, err := os.Stat(dir); err == nil {
			return dir, true
		}
	}
	if c.moved == nil {
		c.moved = map[string]string{}
		_ = filepath.WalkDir(c.root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // the group was removed meanwhile
			}
			if _, ok := unit.VMOf(d.Name()); ok && d.IsDir() {
				c.moved[d.Name()] = path
				return fs.SkipDir
			}
			return nil
		})
	}
	dir, ok := c.moved[name]
	return dir, ok
}

// usage returns what a unit uses, and whether it has processes.
func (c *cgroups) usage(name string) (usage, bool) {
	dir, ok := c.dir(name)
	if !ok {
		return usage{}, false
	}
	pids := processes(dir)
	if len(pids) == 0 {
		return usage{}, false
	}
	u := usage{cpu: cgroupCPU(dir)}
	controller := u.cpu > 0
	for _, pid := range pids {
		p, ok := processStat(pid)
		if !ok {
			continue
		}
		if u.since.IsZero() || p.since.Before(u.since) {
			u.since = p.since
		}
		u.memory += p.memory
		if !controller {
			u.cpu += p.cpu
		}
	}
	// With the memory controller the kernel counts, including the page cache of images.
	if n, err := readNumber(filepath.Join(dir, "memory.current")); err == nil {
		u.memory = n
	}
	return u, !u.since.IsZero()
}

func processes(dir string) []string {
	// A VM's control group has no subgroups: Delegate=no.
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

func readNumber(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
}

// cgroupCPU returns usage_usec of cpu.stat, which every control group of version 2 has,
// or 0.
func cgroupCPU(dir string) time.Duration {
	data, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var usec int64
		if n, _ := fmt.Sscanf(line, "usage_usec %d", &usec); n == 1 {
			return time.Duration(usec) * time.Microsecond
		}
	}
	return 0
}

// processStat returns resident memory, CPU time and start time from /proc/PID/stat. It
// counts fields after the name, which may contain any characters, proc_pid_stat(5).
func processStat(pid string) (usage, bool) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return usage{}, false
	}
	_, rest, ok := bytes.Cut(data, []byte(") "))
	if i := bytes.LastIndex(data, []byte(") ")); ok && i >= 0 {
		rest = data[i+2:]
	}
	f := strings.Fields(string(rest))
	const utime, stime, starttime, rss = 14 - 3, 15 - 3, 22 - 3, 24 - 3
	if len(f) <= rss {
		return usage{}, false
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(f[i], 10, 64)
		return n
	}
	boot, err := bootTime()
	if err != nil {
		return usage{}, false
	}
	const tick = time.Second / clockTicks
	return usage{
		memory: uint64(max(0, number(rss))) * uint64(os.Getpagesize()),
		cpu:    time.Duration(number(utime)+number(stime)) * tick,
		since:  boot.Add(time.Duration(number(starttime)) * tick),
	}, true
}

// bootTime returns when the machine was booted: now minus the first field of
// /proc/uptime, which includes time in suspend, as starttime does.
func bootTime() (time.Time, error) {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, err
	}
	var up float64
	if _, err := fmt.Sscanf(string(data), "%f", &up); err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(-time.Duration(up * float64(time.Second))), nil
}
