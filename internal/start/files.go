package start

import (
	"os"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

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
