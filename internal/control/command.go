package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"microvm/internal/guest"
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
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program, words...) //nolint:gosec // the plan's own program
	cmd.Dir = c.dir
	if os.Geteuid() == 0 {
		if c.as == nil {
			return "", fmt.Errorf("%s would run as root, which no program of a package does", c.program)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	}
	// What it logs is of use for an error only, and may come in between.
	out, log := bounded{most: maxAnswer}, bounded{most: maxAnswer}
	cmd.Stdout, cmd.Stderr = &out, &log
	cmd.WaitDelay = apiTimeout / 10
	err := cmd.Run()
	text := out.String()
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("no answer in time")
		}
		return text, fmt.Errorf("%s %s: %w: %s", filepath.Base(c.program), strings.Join(words, " "), err, oneLine([]byte(log.String()+text)))
	}
	return text, nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(data []byte) (int, error) {
	if room := b.most - b.Len(); room < len(data) {
		_, _ = b.Buffer.Write(data[:max(0, room)])
		return 0, io.ErrShortBuffer
	}
	return b.Buffer.Write(data)
}

// crosvm runs crosvm's commands: its socket's protocol is its own and changes.
type crosvm struct {
	command
	// memory is the VM's, in MiB.
	memory int
}

// Running implements Client: the guest's CPUs have threads. The socket is there
// before the VM is made.
func (c *crosvm) Running(ctx context.Context) (bool, error) {
	conn, err := guest.DialUnix(ctx, c.dir, c.socket, unix.SOCK_SEQPACKET)
	if err != nil {
		return false, fmt.Errorf("control socket: %w", err)
	}
	defer func() { _ = conn.Close() }()
	return hasCPUs(conn, c.socket, "crosvm_vcpu")
}

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
