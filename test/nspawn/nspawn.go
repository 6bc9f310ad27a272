// Package nspawn boots a system in a container of systemd-nspawn, over a root that
// stays as it is, and throws it away.
package nspawn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// System is what boots.
type System struct {
	// Root is the directory that everything is laid over, and Name begins the
	// container's name.
	Root, Name string
	// Lay changes the tree before it boots.
	Lay func(tree string) error
	// Args are further arguments of systemd-nspawn, with what it runs.
	Args []string
	// Environment is that of the programs that Command runs.
	Environment []string
	// Timeout is for the boot.
	Timeout time.Duration
}

// Container is one that has booted. Its creator removes it.
type Container struct {
	dir         string
	environment []string
	nspawn      *exec.Cmd
	leader      int
	// cgroups are its own.
	cgroups []string
	// ended is closed when nspawn has exited.
	ended chan struct{}
}

// Boot starts a system and waits until its systemd has started everything. The
// container dies with the thread that calls it, which has to be locked.
func Boot(ctx context.Context, s System) (_ *Container, err error) {
	dir, err := os.MkdirTemp("/var/tmp", s.Name+"-")
	if err != nil {
		return nil, err
	}
	c := &Container{dir: dir, environment: s.Environment}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Remove())
		}
	}()
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", s.Root, dir, dir)
	if err := unix.Mount("overlay", c.Tree(), "overlay", 0, options); err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	if err := s.Lay(c.Tree()); err != nil {
		return nil, err
	}
	return c, c.start(ctx, s)
}

// Tree is the container's root, as seen from outside.
func (c *Container) Tree() string { return filepath.Join(c.dir, "merged") }

func (c *Container) start(ctx context.Context, s System) error {
	console := filepath.Join(c.dir, "console")
	log, err := os.Create(console)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command("systemd-nspawn", append([]string{"--quiet", "--directory=" + c.Tree(), "--register=no", "--keep-unit",
		"--private-network", "--bind=/dev/net/tun", "--machine=" + s.Name + "-" + strconv.Itoa(os.Getpid()),
		"--console=pipe", "--resolv-conf=off"}, s.Args...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = log, log
	if c.cgroups, err = newCgroup(s.Name + "-" + strconv.Itoa(os.Getpid())); err != nil {
		return fmt.Errorf("make a cgroup: %w", err)
	}
	cgroup, err := os.Open(c.cgroups[0])
	if err != nil {
		return err
	}
	defer func() { _ = cgroup.Close() }()
	// With us, whatever happens to us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.nspawn, c.ended = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
	for deadline := time.Now().Add(s.Timeout); ; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) || c.HasEnded() || ctx.Err() != nil {
			text, _ := os.ReadFile(console)
			return fmt.Errorf("the container did not boot, or not within %s:\n%s", s.Timeout, text)
		}
		// Asked again each time: the first child that nspawn has is one that
		// makes the namespaces, forks the container's init and leaves.
		if c.leader = child(cmd.Process.Pid); c.leader == 0 {
			continue
		}
		out, _ := c.Command(ctx, "systemctl", "is-system-running").Output()
		switch strings.TrimSpace(string(out)) {
		case "running", "degraded":
			return nil
		}
	}
}

// newCgroup makes a cgroup below the caller's. nspawn has its container in one named
// payload below its own, and two systemds that have the same one remove each other's.
// On a machine that has hierarchies of version 1 as well, nspawn makes those of the
// same name in systemd's; all are returned, the one for the container first.
func newCgroup(name string) ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mount := regexp.MustCompile(`(?m)^\S+ (\S+) cgroup2 `).FindSubmatch(mounts)
	path := regexp.MustCompile(`(?m)^0::(.*)$`).FindSubmatch(own)
	if mount == nil || path == nil {
		return nil, errors.New("no cgroup file system of version 2 is mounted")
	}
	dirs := []string{filepath.Join(string(mount[1]), string(path[1]), name)}
	if old := regexp.MustCompile(`(?m)^\S+ (\S+) cgroup \S*name=systemd`).FindSubmatch(mounts); old != nil {
		dirs = append(dirs, filepath.Join(string(old[1]), string(path[1]), name))
	}
	return dirs, os.Mkdir(dirs[0], 0o755)
}

// removeCgroup removes a cgroup with those in it, which processes leave when they
// have been waited for.
func removeCgroup(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	slices.Reverse(dirs)
	for _, dir := range dirs {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			e := unix.Rmdir(dir)
			if e == nil || !errors.Is(e, unix.EBUSY) || time.Now().After(deadline) {
				err = errors.Join(err, e)
				break
			}
		}
	}
	return err
}

// child is the only child of a process, 0 while it has none.
func child(pid int) int {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	first, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	n, _ := strconv.Atoi(first)
	return n
}

// Command is one that runs in the container, as root.
func (c *Container) Command(ctx context.Context, words ...string) *exec.Cmd {
	args := []string{"-t", strconv.Itoa(c.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", "/usr/bin/env", "-i"}
	return exec.CommandContext(ctx, "nsenter", append(append(args, c.environment...), words...)...)
}

// HasEnded reports whether the container has exited, for whatever reason.
func (c *Container) HasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// Kill ends the container at once.
func (c *Container) Kill() {
	if c.nspawn == nil {
		return
	}
	if c.leader != 0 {
		_ = syscall.Kill(c.leader, syscall.SIGKILL)
	}
	_ = c.nspawn.Process.Kill()
	<-c.ended
}

// Remove ends the container and throws it away.
func (c *Container) Remove() error {
	c.Kill()
	err := unix.Unmount(c.Tree(), unix.MNT_DETACH)
	// Where it was not mounted yet.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	err = errors.Join(err, os.RemoveAll(c.dir))
	for _, dir := range c.cgroups {
		err = errors.Join(err, removeCgroup(dir))
	}
	return err
}
