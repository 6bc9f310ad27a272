package stop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/guest"
	"microvm/internal/process"
	"microvm/internal/safepath"
)

// ownerTimeout bounds the connection to a control socket. Who listens there need
// not take it.
const ownerTimeout = 10 * time.Second

// SocketOwner returns the process that listens on a Unix socket beneath dir: the
// hypervisor of a control socket. The caller releases it.
//
// The hypervisor's user can put anything in the socket's place, and whoever acts
// on the answer may be root. So no link is followed, and only a process of one of
// users, in dir itself, is a hypervisor.
func SocketOwner(ctx context.Context, dir, socket string, users ...int) (*process.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, ownerTimeout)
	defer cancel()
	path := filepath.Join(dir, socket)
	conn, err := safepath.DialBeneath(ctx, dir, socket, unix.SOCK_STREAM)
	if errors.Is(err, unix.EPROTOTYPE) { // crosvm's
		conn, err = safepath.DialBeneath(ctx, dir, socket, unix.SOCK_SEQPACKET)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; is the VM running?", err)
	}
	defer func() { _ = conn.Close() }()
	cred, err := control.Listener(conn)
	if err != nil {
		return nil, fmt.Errorf("ask who listens on %s: %w", path, err)
	}
	return hypervisorIn(dir, int(cred.Pid), users)
}

// hypervisorIn holds process pid, if it is one of users and runs in dir. The
// number is the word of somebody who may lie, and may have come to mean another
// process since he said it; so the process is held first and looked at then.
func hypervisorIn(dir string, pid int, users []int) (*process.Process, error) {
	fail := func(why string) (*process.Process, error) {
		return nil, fmt.Errorf("process %d, which was to be the hypervisor, %s; the VM is down, or runs as another user: stop it as that user, or with: microvm stop NAME", pid, why)
	}
	if pid <= 1 {
		return fail("is none of this host's")
	}
	p, err := process.Hold(pid)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return fail("is gone")
	}
	why := isNot(dir, p.PID(), users)
	if why == "" && !p.Exists() {
		why = "is gone"
	}
	if why != "" {
		p.Release()
		return fail(why)
	}
	return p, nil
}

// isMain reports whether a process is the main one of the service whose ExecStop=
// runs us, systemd.service(5). A user namespace, which is of our units, hides
// where it runs from the units of microvm.nix, when a host goes back to those.
func isMain(pid int) bool {
	return os.Getenv("MAINPID") == strconv.Itoa(pid) && process.SameUnit(pid)
}

// isNot returns why the process, by what /proc has under its number, is not the
// hypervisor that one of users runs in dir; "" means that it is.
func isNot(dir string, pid int, users []int) string {
	owner, err := process.UserOf(pid)
	if err != nil {
		return fmt.Sprintf("is hidden from us (%v)", err)
	}
	if !slices.Contains(users, owner) {
		return fmt.Sprintf("is user %d's", owner)
	}
	ours, err := os.Stat(dir)
	if err != nil {
		return fmt.Sprintf("is sought in a directory that is not there (%v)", err)
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if errors.Is(err, fs.ErrPermission) && isMain(pid) {
		return ""
	}
	if err != nil {
		return fmt.Sprintf("is hidden from us (%v)", err)
	}
	if !os.SameFile(ours, theirs) {
		return "does not run in " + dir
	}
	return ""
}

// KeyOwner returns the hypervisor that runs in dir, by the key that its start left
// there as name. The caller releases it.
func KeyOwner(dir, name string) (*process.Process, error) {
	k, err := guest.ReadKey(dir, name)
	if err != nil {
		return nil, fmt.Errorf("%w; is the VM running?", err)
	}
	// What it says is its owner's word, for whom root is not to end a process.
	if k.UID != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to user %d; stop the VM as that user, or with: microvm stop NAME", filepath.Join(dir, name), k.UID)
	}
	return hypervisorIn(dir, k.PID, []int{k.UID})
}
