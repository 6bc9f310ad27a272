package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/runner"
)

// bootedName is the link to the package that a VM was started with. The one in
// RuntimeDir counts: only root can make names there, and a host that lost its
// power has none left. The one in Dir is a copy, for the ExecStop= of microvm.nix
// on a host that goes back to it.
const bootedName = "booted"

// SetBooted pins the package that current leads to now, after checking that it
// is root's. Everything that a start does reads what was pinned.
func (v VM) SetBooted() error {
	p, err := v.Current()
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if _, err := p.Plan(); err != nil {
		return err
	}
	err = v.inRuntimeDir(func() error { return writeLink(p.Dir(), v.runtimeBooted()) })
	if err != nil {
		return fmt.Errorf("pin the runner of %s: %w", v.Name, err)
	}
	_ = writeLink(p.Dir(), v.copyOfBooted()) // a hypervisor may be in the way
	return nil
}

// ClearBooted undoes SetBooted, and what one left that was killed.
func (v VM) ClearBooted() error {
	// The copy first: without the other it would be that of an earlier version.
	_ = unix.Unlink(v.copyOfBooted())
	_ = removeLeftoversOf(v.copyOfBooted())
	if err := os.Remove(v.runtimeBooted()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin the runner of %s: %w", v.Name, err)
	}
	return errors.Join(removeLeftoversOf(v.runtimeBooted()), v.removeRuntimeDir())
}

// Booted opens the package that the VM was started with. The error is
// fs.ErrNotExist where it was not started.
func (v VM) Booted() (*runner.Package, error) {
	if !v.Exists() {
		return nil, v.notFound()
	}
	return v.follow(v.BootedLink())
}

// BootedLink is the path of the link to the package that the VM was started
// with. It need not exist.
func (v VM) BootedLink() string {
	if _, err := os.Lstat(v.runtimeBooted()); err == nil || !v.startedByEarlierVersion() {
		return v.runtimeBooted()
	}
	return v.copyOfBooted()
}

// BootedTarget is the path of the package that the VM was started with; empty
// where it was not started.
func (v VM) BootedTarget() string {
	target, err := os.Readlink(v.BootedLink())
	if err != nil {
		return ""
	}
	return target
}

func (v VM) runtimeBooted() string { return filepath.Join(v.RuntimeDir(), bootedName) }

func (v VM) copyOfBooted() string { return filepath.Join(v.Dir(), bootedName) }

// startedByEarlierVersion reports whether an earlier version, which had no other
// link than the copy, started the VM since this system is up. The VM is still to
// be stopped as what it was started as. No start goes by that link.
func (v VM) startedByEarlierVersion() bool {
	var st unix.Stat_t
	if err := unix.Lstat(v.copyOfBooted(), &st); err != nil || st.Uid != 0 || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false
	}
	// A link of before is of a host that lost its power.
	return time.Unix(st.Mtim.Unix()).After(upSince())
}

// upSince is when the service manager was started, or the kernel where that
// cannot be seen. In a container the kernel is older.
func upSince() time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Now() // nothing is newer
	}
	boot := time.Now().Add(-time.Duration(now.Nano()))
	// The 22nd field, in ticks since the boot, proc_pid_stat(5). The second one is
	// in brackets and may hold anything.
	const after, ticksPerSecond = 22 - 3, 100
	data, _ := os.ReadFile("/proc/1/stat")
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) <= after {
		return boot
	}
	ticks, err := strconv.ParseInt(string(fields[after]), 10, 64)
	if err != nil {
		return boot
	}
	return boot.Add(time.Duration(ticks) * time.Second / ticksPerSecond)
}
