package start

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/control"
	"microvm/internal/safepath"
)

// ownerTimeout bounds the connection to a control socket. Who listens there need
// not take it.
const ownerTimeout = 10 * time.Second

// SocketOwner is the process that listens on a Unix socket beneath dir: the
// hypervisor of a control socket.
//
// The hypervisor's user can put anything in the socket's place, and whoever acts
// on the answer may be root. So no link is followed, and only a process of one of
// users, in dir itself, is a hypervisor.
func SocketOwner(ctx context.Context, dir, socket string, users ...int) (*Process, error) {
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
func hypervisorIn(dir string, pid int, users []int) (*Process, error) {
	fail := func(why string) (*Process, error) {
		return nil, fmt.Errorf("process %d, which was to be the hypervisor, %s; the VM is down, or runs as another user: stop it as that user, or with: microvm stop NAME", pid, why)
	}
	if pid <= 1 {
		return fail("is none of this host's")
	}
	p, err := HoldProcess(pid)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return fail("is gone")
	}
	why := p.isNot(dir, users)
	if why == "" && !p.there() {
		why = "is gone"
	}
	if why != "" {
		p.release()
		return fail(why)
	}
	return p, nil
}

// isMain says whether the process is the main one of the service whose ExecStop=
// runs us, systemd.service(5). A user namespace, which is of our units, hides
// where it runs from the units of microvm.nix, when a host goes back to those.
func (p *Process) isMain() bool {
	return os.Getenv("MAINPID") == strconv.Itoa(p.pid) && sameUnit(p.pid)
}

// isNot says why the process, by what /proc has under its number, is not the
// hypervisor that one of users runs in dir.
func (p *Process) isNot(dir string, users []int) string {
	owner, err := userOf(p.pid)
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
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", p.pid))
	if errors.Is(err, fs.ErrPermission) && p.isMain() {
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

// userOf is the user of a process, whose real, effective, saved and file system
// IDs have to be the same, proc_pid_status(5). The owner of /proc/PID is not
// asked: it is root for a process that may not be dumped.
func userOf(pid int) (int, error) {
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
