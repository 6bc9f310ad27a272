package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bootTimeout      = 3 * time.Minute
	containerTimeout = 55 * time.Minute
)

// inContainer boots the root with payload laid over it under systemd-nspawn
// and runs command inside, as root. It returns the command's exit code.
func inContainer(ctx context.Context, r root, payload string, command []string) (code int, err error) {
	work, err := os.MkdirTemp("/var/tmp", "microvm-container-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	merged := filepath.Join(work, "merged")
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(work, d), 0o755); err != nil {
			return 0, err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", r.tree, work, work)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return 0, fmt.Errorf("mount overlay: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(merged, unix.MNT_DETACH)) }()
	if err := run("cp", "-a", payload+"/.", merged); err != nil {
		return 0, err
	}
	c, err := bootContainer(merged, filepath.Join(work, "console"))
	if err != nil {
		return 0, err
	}
	defer c.kill()
	return c.exec(ctx, command)
}

// container is a booted one.
type container struct {
	nspawn *exec.Cmd
	leader int
	// ended is closed when nspawn has exited.
	ended chan struct{}
}

func (c *container) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// bootContainer starts the container and waits until its systemd has started
// everything.
func bootContainer(tree, console string) (*container, error) {
	log, err := os.Create(console)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command("systemd-nspawn", "--quiet", "--directory="+tree, "--boot", "--register=no", "--keep-unit",
		"--private-network", "--bind=/dev/net/tun", "--machine=microvm-test-"+strconv.Itoa(os.Getpid()), "--console=pipe", "--resolv-conf=off")
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = log, log
	// With us, whatever happens to us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &container{nspawn: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
	for deadline := time.Now().Add(bootTimeout); ; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) || c.hasEnded() {
			c.kill()
			text, _ := os.ReadFile(console)
			return nil, fmt.Errorf("the container did not boot, or not within %s:\n%s", bootTimeout, text)
		}
		// Asked anew each time: the first child that nspawn has is one that
		// makes the namespaces, forks the container's init and leaves.
		if c.leader = child(cmd.Process.Pid); c.leader == 0 {
			continue
		}
		out, _ := c.command("systemctl", "is-system-running").CombinedOutput()
		if s := strings.TrimSpace(string(out)); s == "running" || s == "degraded" {
			return c, nil
		}
	}
}

// child is the only child of a process, 0 while it has none.
func child(pid int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	fields := strings.Fields(string(data))
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(fields[0])
	return n
}

func (c *container) command(words ...string) *exec.Cmd {
	args := append([]string{"-t", strconv.Itoa(c.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", "/usr/bin/env", "-i",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=" + os.Getenv("TERM"), "MICROVM_TEST_HOST=container"}, words...)
	return exec.Command("nsenter", args...)
}

func (c *container) exec(ctx context.Context, words []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	cmd := c.command(words...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, c.kill)
	defer stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("the container was ended: %w", ctx.Err())
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	}
	return 0, err
}

// kill ends the container at once; it is thrown away.
func (c *container) kill() {
	if c.leader != 0 {
		_ = syscall.Kill(c.leader, syscall.SIGKILL)
	}
	_ = c.nspawn.Process.Kill()
	<-c.ended
}
