package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"microvm/internal/foreign"
	"microvm/internal/safepath"
)

// command runs a hypervisor's own program for control, never as root: the
// program is named by the package.
type command struct {
	program, dir, socket string
	// as is who runs it where we are root.
	as *syscall.Credential
}

// Close implements Client.
func (c *command) Close() error { return nil }

// run runs the program in the state directory and returns what it prints.
func (c *command) run(ctx context.Context, words ...string) (string, error) {
	if os.Geteuid() == 0 && c.as == nil {
		return "", fmt.Errorf("%s would run as root, which no program of a package does", c.program)
	}
	path, err := find(c.program)
	if err != nil {
		return "", fmt.Errorf("find %s: %w; install it, or name its package in the spec", c.program, err)
	}
	// It has to reach the socket, and is told nothing of who asks.
	cmd := foreign.Command{Path: path, Args: words, Dir: c.dir, As: c.as, Limit: apiTimeout, MaxOutput: maxAnswer}
	out, log, err := cmd.Run(ctx)
	if errors.Is(err, foreign.ErrTimeout) {
		err = errors.New("no answer in time")
	}
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", filepath.Base(c.program), strings.Join(words, " "), err, oneLine(slices.Concat(log, out)))
	}
	return string(out), nil
}

// find finds a program in the caller's PATH, or where a unit would: root's own
// PATH says nothing of what a VM runs.
func find(program string) (string, error) {
	if os.Geteuid() != 0 {
		if path, err := exec.LookPath(program); err == nil {
			return path, nil
		}
	}
	return foreign.InUnit(program)
}

// crosvm runs crosvm's commands: its socket's protocol is its own and changes.
type crosvm struct {
	command
	silent
	// memory is the VM's, in MiB.
	memory int
}

// Running implements Client: the guest's CPUs have threads. The socket is there
// before the VM is made.
func (c *crosvm) Running(ctx context.Context) (bool, error) {
	conn, err := safepath.DialBeneath(ctx, c.dir, c.socket, unix.SOCK_SEQPACKET)
	if err != nil {
		return false, fmt.Errorf("control socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	return hasCPUs(conn, c.socket, "crosvm_vcpu")
}

// AwaitRunning implements Client.
func (c *crosvm) AwaitRunning(ctx context.Context) error { return pollRunning(ctx, c.Running) }

// CtrlAltDel implements Client.
func (c *crosvm) CtrlAltDel(context.Context) error {
	return errNoWay("crosvm", "press keys; it has a power button")
}

// PowerButton implements Client.
func (c *crosvm) PowerButton(ctx context.Context) error {
	_, err := c.run(ctx, "powerbtn", c.socket)
	return err
}

// Memory implements Client.
func (c *crosvm) Memory(context.Context) (int, error) { return known(c.memory) }

// GuestMemory implements Client. What the guest itself counts says nothing: crosvm
// offers VIRTIO_BALLOON_F_DEFLATE_ON_OOM, and a Linux that takes that leaves what
// the balloon holds in its total (drivers/virtio/virtio_balloon.c).
func (c *crosvm) GuestMemory(ctx context.Context) (int, error) {
	whole, err := c.Memory(ctx)
	if err != nil {
		return 0, err
	}
	text, err := c.run(ctx, "balloon_stats", c.socket)
	if err != nil {
		return 0, err
	}
	var answer struct {
		BalloonStats struct {
			Actual *int64 `json:"balloon_actual"` // bytes
		} `json:"BalloonStats"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.BalloonStats.Actual == nil {
		return 0, fmt.Errorf("crosvm balloon_stats prints no size of the balloon: %s", oneLine([]byte(text)))
	}
	return whole - int(*answer.BalloonStats.Actual>>20), nil
}

// SetGuestMemory implements Client.
func (c *crosvm) SetGuestMemory(ctx context.Context, guest, whole int) error {
	_, err := c.run(ctx, "balloon", strconv.FormatInt(int64(whole-guest)<<20, 10), c.socket)
	return err
}
