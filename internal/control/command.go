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

	"microvm/internal/exit"
	"microvm/internal/foreign"
	"microvm/internal/safepath"
)

// command runs a hypervisor's own control program. It never runs it as root, as the package
// names the program.
type command struct {
	program, dir, socket string
	// as is the user that runs it if we are root.
	as *syscall.Credential
}

// Close implements Client.
func (c *command) Close() error { return nil }

// run runs the program in the state directory and returns what it prints.
func (c *command) run(ctx context.Context, words ...string) (string, error) {
	if os.Geteuid() == 0 && c.as == nil {
		return "", fmt.Errorf("refusing to run %s of a package as root", c.program)
	}
	path, err := find(c.program)
	if err != nil {
		return "", exit.WithHint(fmt.Errorf("find %s: %w", c.program, err), "install it, or set its package in the spec")
	}
	cmd := foreign.Command{Path: path, Args: words, Dir: c.dir, As: c.as, Limit: apiTimeout, MaxOutput: maxAnswer}
	out, log, err := cmd.Run(ctx)
	if errors.Is(err, foreign.ErrTimeout) {
		err = errors.New("timed out waiting for an answer")
	}
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", filepath.Base(c.program), strings.Join(words, " "), err, oneLine(slices.Concat(log, out)))
	}
	return string(out), nil
}

// find returns the path of a program: from the caller's PATH, or where a unit would find it.
// For root it is always the latter, as root's PATH differs from that of a VM's unit.
func find(program string) (string, error) {
	if os.Geteuid() != 0 {
		if path, err := exec.LookPath(program); err == nil {
			return path, nil
		}
	}
	return foreign.InUnit(program)
}

// crosvm runs crosvm's commands, as the protocol of its socket is private and changes.
type crosvm struct {
	command
	silent
	// memory is the VM's memory, in MiB.
	memory int
}

// Running implements Client. The guest runs when its CPUs have threads; the socket exists
// before the VM does.
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
	return errNoWay("crosvm", "press keys")
}

// PowerButton implements Client.
func (c *crosvm) PowerButton(ctx context.Context) error {
	_, err := c.run(ctx, "powerbtn", c.socket)
	return err
}

// Memory implements Client.
func (c *crosvm) Memory(context.Context) (int, error) { return known(c.memory) }

// GuestMemory implements Client. The guest's own count is useless: crosvm offers
// VIRTIO_BALLOON_F_DEFLATE_ON_OOM, and a Linux that accepts it does not subtract the balloon
// from its total (drivers/virtio/virtio_balloon.c).
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
		return 0, fmt.Errorf("crosvm balloon_stats: no size of the balloon in: %s", oneLine([]byte(text)))
	}
	return whole - int(*answer.BalloonStats.Actual>>20), nil
}

// SetGuestMemory implements Client.
func (c *crosvm) SetGuestMemory(ctx context.Context, guest, whole int) error {
	_, err := c.run(ctx, "balloon", strconv.FormatInt(int64(whole-guest)<<20, 10), c.socket)
	return err
}
