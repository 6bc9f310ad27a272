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

// await waits for bridges and devices that the host may have a moment later, and
// that no other program waits for. What is still missing then is reported by the
// program that needs it, except where that would be the hypervisor.
func (s *start) await() error {
	plan := s.plan
	ctx := context.Background() // SIGTERM just ends this process: there is nothing to undo
	if err := s.awaitBridges(ctx, plan.Bridges()); err != nil {
		return err
	}
	// The contents of a jail are fixed since this process was started.
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

// patience returns the Patience that all waits of a start share.
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

// wait calls For of the start's patience.
func (s *start) wait(ctx context.Context, what string, ready func() bool, events ...wait.Events) error {
	if ready() {
		return nil // the usual case, which does not read the environment
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
			return s.waits.WithHint(exit.WithHint(fmt.Errorf("bridge %q %w", name, err), "create it before the VM, or correct bridge in the spec"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// devicePaths returns the paths of the VM's files and volumes that are devices.
func devicePaths(plan *hypervisor.Plan) []string {
	var out []string
	add := func(path string) {
		path = filepath.Clean(path)
		// Files in memory exist already, or are created.
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

// awaitPath waits until this process may read a disk, or the link that udev
// creates to it.
func (s *start) awaitPath(ctx context.Context, path string) error {
	there := func() bool {
		err := unix.Access(path, unix.R_OK)
		return err == nil || !errors.Is(err, unix.ENOENT) && wait.UdevIdle()
	}
	return optional(s.wait(ctx, path, there, wait.Dir(filepath.Dir(path)), event.Devices, wait.UdevQueue()))
}

// awaitUdev waits for a device as long as udev is busy: that is when a host that
// boots loads its modules. Later, a device that is missing stays missing.
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
// through which a guest reports.
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
		return exit.WithHint(fmt.Errorf("%s %w, which the VM's vsock needs", hypervisor.VhostVsock, err),
			"load the module with modprobe vhost_vsock, or remove vsock.cid from the spec")
	}
	return err
}

// optional drops wait.ErrNotThere, for what another program reports as missing.
func optional(err error) error {
	if errors.Is(err, wait.ErrNotThere) {
		return nil
	}
	return err
}
