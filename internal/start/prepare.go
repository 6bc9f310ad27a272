package start

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

// prepare opens the devices, becomes the hypervisors' user, makes the volumes and
// runs what the spec has run before a start.
func (s *start) prepare() (err error) {
	if s.files, err = s.macvtaps(s.plan.Macvtaps); err != nil {
		return err
	}
	// What follows makes files that the hypervisor has to write, and runs what the
	// package names.
	if err := switchUser(s.plan.User); err != nil {
		return err
	}
	return s.patiently(func() error {
		if err := s.makeFiles(); err != nil {
			return err
		}
		return s.disks.lend(s.vm.Name, func() error {
			if err := beforeStart(s.plan.BeforeStart); err != nil {
				return err
			}
			s.extra, err = extraArgs(s.plan.ExtraArgsScript)
			return err
		})
	})
}

// switchUser becomes another user when started as root by hand.
func switchUser(name string) error {
	if name == "" || os.Geteuid() != 0 {
		return nil
	}
	return becomeUser(name)
}

// makeFiles makes the volumes, removes what an earlier run left and makes the
// directories of 9p shares.
func (s *start) makeFiles() (err error) {
	// First: where the VM runs already, by hand say, it has its images, and its
	// sockets are in use.
	if s.disks, err = s.volumes("."); err != nil {
		return exit.Retry(err)
	}
	if err := safepath.RemoveStale(".", unix.S_IFSOCK, s.stale(s.plan.StaleSockets)...); err != nil {
		return err
	}
	if err := checkKVM(s.plan, s.Logf); err != nil {
		return err
	}
	return makeSources(s.dir(), s.plan.NinePShares)
}

// dir is the VM's directory, which is the current one, as specs have it.
func (s *start) dir() string {
	if hasState(s.vm) {
		return s.vm.Dir()
	}
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	return dir
}

// beforeStart runs what the hypervisor itself needs to have run, unprivileged as
// everything here.
func beforeStart(commands string) error {
	if commands == "" {
		return nil
	}
	cmd := exec.Command("/bin/sh", "-eu", "-c", commands) //nolint:gosec // the plan's own commands
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("what the hypervisor needs before it starts: %w", err)
	}
	return nil
}

// extraArgs runs the spec's script and splits its one line at white space.
func extraArgs(script string) ([]string, error) {
	if script == "" {
		return nil, nil
	}
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:gosec // the spec's own script
	cmd.Stderr = os.Stderr
	// What it leaves running may hold its output open.
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("extraArgsScript %s: %w", script, err)
	}
	if bytes.Count(bytes.TrimSpace(out), []byte("\n")) > 0 {
		return nil, fmt.Errorf("extraArgsScript %s printed more than one line; it has to print the arguments on one", script)
	}
	return strings.Fields(string(out)), nil
}
