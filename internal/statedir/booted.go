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
	if err := v.RemoveRecord(adoptedRecord); err != nil {
		return err
	}
	_ = copyLink(p.Dir(), v.copyOfBooted()) // a hypervisor may be in the way
	return nil
}

// ClearBooted undoes SetBooted, and what one left that was killed.
func (v VM) ClearBooted() error {
	// The copy first: without the other it would be that of an earlier version.
	_ = unix.Unlink(v.copyOfBooted())
	_ = removeLeftoversOf(v.copyOfBooted())
	if err := v.RemoveRecord(adoptedRecord); err != nil {
		return err
	}
	if err := os.Remove(v.runtimeBooted()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin the runner of %s: %w", v.Name, err)
	}
	return errors.Join(removeLeftoversOf(v.runtimeBooted()), v.removeRuntimeDir())
}

// Pinned opens the package that SetBooted has pinned for this start. The error is
// fs.ErrNotExist where none was.
func (v VM) Pinned() (*runner.Package, error) {
	if !v.Exists() {
		return nil, v.notFound()
	}
	return v.follow(v.runtimeBooted())
}

// Booted opens the package that the VM was started with, by whichever program.
// The error is fs.ErrNotExist where it was not started. No start goes by it.
func (v VM) Booted() (*runner.Package, error) {
	if v.BootedLink() == v.runtimeBooted() {
		return v.Pinned()
	}
	// Who owns the directory, as the hypervisors' user does with microvm.nix, says
	// which package it is; that the package is root's is looked at.
	target, err := os.Readlink(v.copyOfBooted())
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", v.copyOfBooted(), err)
	}
	if !filepath.IsAbs(target) {
		return nil, &runner.UntrustedError{Path: v.copyOfBooted(), Reason: "it leads to " + target + ", which is no absolute path"}
	}
	return v.follow(target)
}

// BootedLink is the path of the link to the package that the VM was started
// with. It need not exist.
func (v VM) BootedLink() string {
	if _, err := os.Lstat(v.runtimeBooted()); err == nil || !v.startedByAnother() {
		return v.runtimeBooted()
	}
	return v.copyOfBooted()
}

// adoptBooted pins what the VM was started with by microvm.nix, or by an earlier
// version, and makes the link in its directory root's.
func (v VM) adoptBooted() error {
	if v.BootedLink() != v.copyOfBooted() {
		return nil
	}
	return v.adoptCopy()
}

// BelieveAnother pins what microvm.nix started the VM with, where that was after we
// did: the host has gone back to it meanwhile, and what we wrote down is of a run that
// is over. started is when the unit that writes it down was last started, which
// systemd knows: ours writes then, too. The word of who owned the directory counts for
// that once, as in takeOver.
func (v VM) BelieveAnother(started time.Time) error {
	// The clock of a file system is a few milliseconds behind.
	const slack = time.Second
	var st unix.Stat_t
	if err := unix.Lstat(v.runtimeBooted(), &st); err != nil || !time.Unix(st.Mtim.Unix()).Add(slack).Before(started) {
		return nil // nothing was written down
	}
	return v.adoptCopy()
}

// adoptCopy pins what the link in the VM's directory leads to, if that is a package
// of root's.
func (v VM) adoptCopy() error {
	target, err := os.Readlink(v.copyOfBooted())
	if err != nil || !filepath.IsAbs(target) {
		return nil // nobody can go by it
	}
	p, err := v.follow(target)
	if err != nil {
		return nil // the same
	}
	defer func() { _ = p.Close() }()
	// First, so that whoever finds the pin finds this as well.
	if err := v.WriteRecord(adoptedRecord, p.Dir()); err != nil {
		return err
	}
	if err := v.inRuntimeDir(func() error { return writeLink(p.Dir(), v.runtimeBooted()) }); err != nil {
		return fmt.Errorf("pin the runner that %s runs: %w", v.Name, err)
	}
	return copyLink(p.Dir(), v.copyOfBooted())
}

// adoptedRecord is the record of a run that another program began.
const adoptedRecord = "adopted"

// StartedByAnother reports whether microvm.nix, or an earlier version, began the run
// of the VM: its helpers have no records of what they made.
func (v VM) StartedByAnother() bool {
	var dir string
	found, err := v.ReadRecord(adoptedRecord, &dir)
	return found && err == nil || v.BootedLink() == v.copyOfBooted()
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

// startedByAnother reports whether microvm.nix or an earlier version, which have
// no other link than the copy, started the VM since this system is up. The VM is
// still to be stopped as what it was started as.
func (v VM) startedByAnother() bool {
	var st unix.Stat_t
	if err := unix.Lstat(v.copyOfBooted(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false
	}
	// Only before it was taken over does anybody else have a say.
	if st.Uid != 0 && v.Adopted() {
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
