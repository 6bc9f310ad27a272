package start

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/kvm"
	"microvm/internal/netif"
	"microvm/internal/netif/event"
	"microvm/internal/wait"
)

// await waits for what the host may have a moment later, and which nobody but
// this program looks for: bridges, and devices. What does not come is named by
// who needs it; only what the hypervisor would be left to say is named here.
func (s *start) await() error {
	plan := s.plan
	ctx := context.Background() // SIGTERM ends this process, which has done nothing yet
	if err := s.awaitBridges(ctx, plan.Bridges()); err != nil {
		return err
	}
	// What a jail has was put there when this process was started.
	if plan.Jail != nil {
		return nil
	}
	for _, path := range devicePaths(plan) {
		if err := s.awaitPath(ctx, path); err != nil {
			return err
		}
	}
	if plan.KVM != hypervisor.KVMUnused {
		if err := s.awaitUdev(ctx, kvm.Device); err != nil {
			return err
		}
	}
	for _, path := range plan.Devices {
		var err error
		if path == hypervisor.VhostVsock {
			err = s.awaitVsock(ctx)
		} else {
			err = s.awaitUdev(ctx, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// patience is shared by all waits of a start.
func (s *start) patience() (*wait.Patience, error) {
	if s.waits != nil {
		return s.waits, nil
	}
	p, err := wait.FromEnv(func(line string) { s.Logf("%s", line) })
	if err != nil {
		return nil, err
	}
	p.Notify = s.Notify
	s.waits = p
	return p, nil
}

// wait is For of the start's patience.
func (s *start) wait(ctx context.Context, what string, ready func() bool, events ...wait.Events) error {
	if ready() {
		return nil // nearly always, and without a look at the environment
	}
	p, err := s.patience()
	if err != nil {
		return err
	}
	return p.For(ctx, what, func() (bool, error) { return ready(), nil }, events...)
}

// awaitBridges waits for the bridges that qemu-bridge-helper adds an interface to.
func (s *start) awaitBridges(ctx context.Context, bridges []string) error {
	for _, name := range bridges {
		there := func() bool { return netif.Exists(name) }
		err := s.wait(ctx, "bridge "+name, there, event.Links)
		if errors.Is(err, wait.ErrNotThere) {
			return exit.WithHint(fmt.Errorf("bridge %q %w", name, err),
				"make it before the VM, or correct bridge in the spec; it was waited for %.0f s, which %s changes", s.waits.Limit.Seconds(), wait.Variable)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// devicePaths are the disks among what the VM uses.
func devicePaths(plan *hypervisor.Plan) []string {
	var out []string
	add := func(path string) {
		path = filepath.Clean(path)
		// Files in memory are there, or are made.
		if strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/") {
			out = append(out, path)
		}
	}
	for _, f := range plan.Files {
		add(f.Path)
	}
	for _, v := range plan.Volumes {
		add(v.Image)
	}
	return out
}

// awaitPath waits for a disk, or a link to one that udev makes, until this
// process may read it.
func (s *start) awaitPath(ctx context.Context, path string) error {
	there := func() bool {
		err := unix.Access(path, unix.R_OK)
		return err == nil || !errors.Is(err, unix.ENOENT) && wait.UdevIdle()
	}
	return optional(s.wait(ctx, path, there, wait.Dir(filepath.Dir(path)), event.Devices, wait.UdevQueue()))
}

// awaitUdev waits for a device for as long as udev is at work: a host that is
// starting loads its modules then. A host that has not got it, and does not come
// to, is the usual case later.
func (s *start) awaitUdev(ctx context.Context, path string) error {
	there := func() bool {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err == nil || wait.UdevIdle()
	}
	return optional(s.wait(ctx, path, there, wait.Dir(filepath.Dir(path)), event.Devices, wait.UdevQueue()))
}

// awaitVsock waits for the module vhost_vsock, and with it for the socket family
// by which a guest reports.
func (s *start) awaitVsock(ctx context.Context) error {
	there := func() bool {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.ENODEV) && wait.Usable(hypervisor.VhostVsock, unix.O_RDWR)
	}
	err := s.wait(ctx, hypervisor.VhostVsock, there, wait.Dir(filepath.Dir(hypervisor.VhostVsock)), event.Devices, wait.UdevQueue())
	if errors.Is(err, wait.ErrNotThere) {
		return exit.WithHint(fmt.Errorf("%s %w, and this VM has a vsock", hypervisor.VhostVsock, err),
			"load the module with: modprobe vhost_vsock; or leave vsock.cid out of the spec")
	}
	return err
}

// optional is for what somebody else names when it is not there.
func optional(err error) error {
	if errors.Is(err, wait.ErrNotThere) {
		return nil
	}
	return err
}
