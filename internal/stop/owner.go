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
	"microvm/internal/exit"
	"microvm/internal/guest"
	"microvm/internal/process"
	"microvm/internal/safepath"
)

// ownerTimeout bounds the connection to a control socket, whose listener may never
// accept it.
const ownerTimeout = 10 * time.Second

// SocketOwner returns the hypervisor that listens on socket, a control socket
// beneath dir. The caller releases it.
//
// The hypervisor's user can replace the socket by anything, and the caller may be
// root. So no links are followed, and the process must run as one of users, with dir
// as its current directory.
func SocketOwner(ctx context.Context, dir, socket string, users ...int) (*process.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, ownerTimeout)
	defer cancel()
	path := filepath.Join(dir, socket)
	conn, err := safepath.DialBeneath(ctx, dir, socket, unix.SOCK_STREAM)
	if errors.Is(err, unix.EPROTOTYPE) { // crosvm's
		conn, err = safepath.DialBeneath(ctx, dir, socket, unix.SOCK_SEQPACKET)
	}
	if err != nil {
		return nil, exit.WithHint(err, "check that the VM is running")
	}
	defer func() { _ = conn.Close() }()
	cred, err := control.Listener(conn)
	if err != nil {
		return nil, fmt.Errorf("find the process that listens on %s: %w", path, err)
	}
	return hypervisorIn(dir, int(cred.Pid), users)
}

// hypervisorIn holds process pid, or returns an error if it is not the hypervisor
// that one of users runs in dir. The number may be forged, or belong to another
// process by now; so the process is held first and checked then.
func hypervisorIn(dir string, pid int, users []int) (*process.Process, error) {
	fail := func(why string) (*process.Process, error) {
		return nil, exit.WithHint(fmt.Errorf("process %d is not the VM's hypervisor: %s", pid, why),
			"if the VM runs as another user, stop it as that user, or with: microvm stop NAME")
	}
	if pid <= 1 {
		return fail("it is not a process of this host")
	}
	p, err := process.Hold(pid)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return fail("it has exited")
	}
	why := mismatch(dir, p.PID(), users)
	if why == "" && !p.Exists() {
		why = "it has exited"
	}
	if why != "" {
		p.Release()
		return fail(why)
	}
	return p, nil
}

// isMain reports whether a process is the main process of the service whose ExecStop=
// runs this one, systemd.service(5). The units of microvm.nix cannot see its current
// directory if our units started it in a user namespace, before the host went back
// to microvm.nix.
func isMain(pid int) bool {
	return os.Getenv("MAINPID") == strconv.Itoa(pid) && process.SameUnit(pid)
}

// mismatch returns why, by its entry in /proc, the process is not the hypervisor that
// one of users runs in dir; "" means that it is.
func mismatch(dir string, pid int, users []int) string {
	owner, err := process.UserOf(pid)
	if err != nil {
		return fmt.Sprintf("its user is unknown: %v", err)
	}
	if !slices.Contains(users, owner) {
		return fmt.Sprintf("it runs as user %d", owner)
	}
	ours, err := os.Stat(dir)
	if err != nil {
		return err.Error()
	}
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if errors.Is(err, fs.ErrPermission) && isMain(pid) {
		return ""
	}
	if err != nil {
		return fmt.Sprintf("its current directory is unknown: %v", err)
	}
	if !os.SameFile(ours, theirs) {
		return "it does not run in " + dir
	}
	return ""
}

// KeyOwner returns the hypervisor that runs in dir, by the file name there, with the
// key of its start. The caller releases it.
func KeyOwner(dir, name string) (*process.Process, error) {
	k, err := guest.ReadKey(dir, name)
	if err != nil {
		return nil, exit.WithHint(err, "check that the VM is running")
	}
	// The owner of the file chose the process ID: root must not end a process on the
	// word of another user.
	if k.UID != os.Geteuid() {
		return nil, exit.WithHint(fmt.Errorf("%s belongs to user %d", filepath.Join(dir, name), k.UID),
			"stop the VM as that user, or with: microvm stop NAME")
	}
	return hypervisorIn(dir, k.PID, []int{k.UID})
}
