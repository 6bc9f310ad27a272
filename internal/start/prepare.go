package start

import (
	"os"

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
