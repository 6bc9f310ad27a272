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

// bootedName is the link to the package that a VM was started with. The link in
// RuntimeDir is the one that is trusted: only root can create names there, and none
// survives a power failure. The link in Dir is a copy, for the ExecStop= of microvm.nix
// on a host that goes back to it.
const bootedName = "booted"

// SetBooted pins the package to which current leads now, after checking that only root
// can change it. All steps of a start read the pinned package.
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
		return fmt.Errorf("pin runner package of %s: %w", v.Name, err)
	}
	if err := v.RemoveRecord(adoptedRecord); err != nil {
		return err
	}
	_ = copyLink(p.Dir(), v.copyOfBooted()) // a hypervisor can block it
	return nil
}

// ClearBooted undoes SetBooted, also one that was killed halfway.
func (v VM) ClearBooted() error {
	// The copy first: without the pin it would look like the link of an earlier version.
	_ = unix.Unlink(v.copyOfBooted())
	_ = removeLeftoversOf(v.copyOfBooted())
	if err := v.RemoveRecord(adoptedRecord); err != nil {
		return err
	}
	if err := os.Remove(v.runtimeBooted()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin runner package of %s: %w", v.Name, err)
	}
	return errors.Join(removeLeftoversOf(v.runtimeBooted()), v.removeRuntimeDir())
}

// Pinned opens the package that SetBooted pinned for this start. The error is
// fs.ErrNotExist if none is pinned. The caller closes the package.
func (v VM) Pinned() (*runner.Package, error) {
	if !v.Exists() {
		return nil, v.notFound()
	}
	return v.follow(v.runtimeBooted())
}

// Booted opens the package that the VM was started with, by this program, an earlier
// version or microvm.nix. The error is fs.ErrNotExist if it was not started. A start
// must use Pinned instead. The caller closes the package.
func (v VM) Booted() (*runner.Package, error) {
	if v.BootedLink() == v.runtimeBooted() {
		return v.Pinned()
	}
	// The owner of the VM's directory, with microvm.nix the hypervisors' user, decides
	// which package this is. That only root can change the package is checked.
	target, err := os.Readlink(v.copyOfBooted())
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", v.copyOfBooted(), err)
	}
	if !filepath.IsAbs(target) {
		return nil, &runner.UntrustedError{Path: v.copyOfBooted(), Reason: "leads to " + target + ", which is not an absolute path"}
	}
	return v.follow(target)
}

// BootedLink returns the path of the link to the package that the VM was started with.
// It need not exist.
func (v VM) BootedLink() string {
	if _, err := os.Lstat(v.runtimeBooted()); err == nil || !v.startedByAnother() {
		return v.runtimeBooted()
	}
	return v.copyOfBooted()
}

// adoptBooted pins the package with which microvm.nix or an earlier version started
// the VM, if one did, and replaces the link in its directory by one that root owns.
func (v VM) adoptBooted() error {
	if v.BootedLink() != v.copyOfBooted() {
		return nil
	}
	return v.adoptCopy()
}

// BelieveAnother pins the package with which microvm.nix started the VM, if that was
// after our last start: the host went back to microvm.nix meanwhile, and our pin is
// left of an earlier run. started is when the unit that pins the package was last
// started, according to systemd; ours pins it at that time, too. The link in the VM's
// directory is trusted this once, as in takeOver.
func (v VM) BelieveAnother(started time.Time) error {
	// Timestamps of files are a few milliseconds behind.
	const slack = time.Second
	var st unix.Stat_t
	if err := unix.Lstat(v.runtimeBooted(), &st); err != nil || !time.Unix(st.Mtim.Unix()).Add(slack).Before(started) {
		return nil // nothing is pinned, or by our last start
	}
	return v.adoptCopy()
}

// adoptCopy pins the package to which the link in the VM's directory leads, if only
// root can change that package.
func (v VM) adoptCopy() error {
	target, err := os.Readlink(v.copyOfBooted())
	if err != nil || !filepath.IsAbs(target) {
		return nil // it is of no use
	}
	p, err := v.follow(target)
	if err != nil {
		return nil // it is of no use
	}
	defer func() { _ = p.Close() }()
	// Before the pin, so that there is no pin without it.
	if err := v.WriteRecord(adoptedRecord, p.Dir()); err != nil {
		return err
	}
	if err := v.inRuntimeDir(func() error { return writeLink(p.Dir(), v.runtimeBooted()) }); err != nil {
		return fmt.Errorf("pin running package of %s: %w", v.Name, err)
	}
	return copyLink(p.Dir(), v.copyOfBooted())
}

// adoptedRecord is the record that another program started the VM.
const adoptedRecord = "adopted"

// StartedByAnother reports whether microvm.nix or an earlier version started the VM.
// There are no records then of what its helpers created.
func (v VM) StartedByAnother() bool {
	var dir string
	found, err := v.ReadRecord(adoptedRecord, &dir)
	return found && err == nil || v.BootedLink() == v.copyOfBooted()
}

// BootedTarget returns the path of the package that the VM was started with, "" if it
// was not started.
func (v VM) BootedTarget() string {
	target, err := os.Readlink(v.BootedLink())
	if err != nil {
		return ""
	}
	return target
}

func (v VM) runtimeBooted() string { return filepath.Join(v.RuntimeDir(), bootedName) }

func (v VM) copyOfBooted() string { return filepath.Join(v.Dir(), bootedName) }

// startedByAnother reports whether microvm.nix or an earlier version, which write only
// the link that is our copy, started the VM since the system booted. Such a VM has to
// be stopped according to the package that it was started with.
func (v VM) startedByAnother() bool {
	var st unix.Stat_t
	if err := unix.Lstat(v.copyOfBooted(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return false
	}
	// Another user's link is trusted only before the VM is taken over.
	if st.Uid != 0 && v.Adopted() {
		return false
	}
	// A link from before the boot was left by a power failure.
	return time.Unix(st.Mtim.Unix()).After(upSince())
}

// upSince returns when the service manager was started, or when the kernel booted if
// that is not known. In a container the kernel is older.
func upSince() time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Now() // no link is newer
	}
	boot := time.Now().Add(-time.Duration(now.Nano()))
	// The 22nd field is the start time in ticks since the boot, proc_pid_stat(5). The
	// second field is in parentheses and may contain any characters.
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
