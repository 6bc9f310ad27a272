package start

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
)

// CleanUp removes from dir, the state directory, what a run of plan left behind:
// sockets, the shutdown key, generated files, and what the hypervisor creates and
// does not remove. Everything else stays.
func CleanUp(dir string, plan *hypervisor.Plan) error {
	sockets, files := slices.Clone(plan.StaleSockets), slices.Clone(plan.StaleFiles)
	if plan.Readiness.VsockSocket != "" {
		sockets = append(sockets, muxPath(plan.Readiness.VsockSocket, muxPort))
	}
	if ssh := plan.Shutdown.SSH; ssh != nil {
		files = append(files, ssh.Key, ssh.Key+".new")
	}
	for _, g := range plan.Generated {
		files = append(files, g.Path)
	}
	return errors.Join(
		safepath.RemoveStale(dir, unix.S_IFSOCK, sockets...),
		safepath.RemoveStale(dir, unix.S_IFREG, files...),
		safepath.RemoveStale(dir, unix.S_IFDIR, plan.StaleDirs...),
	)
}
