package start

import (
	"os"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/safepath"
)

// makeFiles creates the volumes, removes what an earlier run left behind and
// creates the directories of 9p shares.
func (s *start) makeFiles() (err error) {
	// The volumes come first: if the VM is already running, for instance in a
	// foreground, its images are locked, and its sockets must stay.
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

// dir returns the absolute path of the VM's directory, which is the current one.
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
