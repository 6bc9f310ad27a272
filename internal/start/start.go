package start

import (
	"slices"

	"microvm/internal/hypervisor"
)

// start is what one start gathers until this process becomes the hypervisor.
type start struct {
	launcher   *Launcher
	vm         string
	plan       *hypervisor.Plan
	program    string
	packageDir string

	files *macvtapFiles
	disks *images
	// extra are the arguments that the spec's extraArgsScript printed.
	extra []string
}

// close closes what is open for the start. After the hypervisor was executed it is
// not called: what is to be closed then has the flag for it.
func (s *start) close() { s.disks.Close() }

// prepare opens the devices, becomes the hypervisors' user, makes the volumes and
// runs what the spec has run before a start.
func (s *start) prepare() (err error) {
	if s.files, err = s.launcher.macvtaps(s.plan.Macvtaps); err != nil {
		return err
	}
	// What follows makes files that the hypervisor has to write, and runs what the
	// package names.
	if err := switchUser(s.plan.User); err != nil {
		return err
	}
	return s.launcher.patiently(func() error {
		if s.disks, err = s.launcher.prepare(s.plan); err != nil {
			return err
		}
		return s.disks.lend(s.vm, func() error {
			if err := beforeStart(s.plan.BeforeStart); err != nil {
				return err
			}
			s.extra, err = extraArgs(s.plan.ExtraArgsScript)
			return err
		})
	})
}

// become starts the readiness child and becomes the hypervisor; it returns only on
// failure.
func (s *start) become() error {
	listener, err := s.launcher.listen(s.plan)
	if err != nil {
		return err
	}
	key, err := newKey(s.plan)
	if err != nil {
		return explain("key", err)
	}
	values := &startValues{files: s.files, listener: listener, shutdownKey: key, packageDir: s.packageDir, arch: s.plan.Arch}
	argv, err := values.expandAll(slices.Concat(s.plan.Argv, s.launcher.landlock(s.plan)))
	if err != nil {
		return err
	}
	if err := values.write(s.plan.Generated); err != nil {
		return err
	}
	if err := s.launcher.announce(s.plan, listener); err != nil {
		return err
	}
	if s.plan.Last > 0 {
		argv = slices.Insert(argv, len(s.plan.Argv)-s.plan.Last, s.extra...)
	} else {
		argv = append(argv, s.extra...)
	}
	if s.plan.ProcessName != "" {
		argv[0] = s.plan.ProcessName
	}
	if err := standardInput(s.plan); err != nil {
		return err
	}
	env := environment(s.plan.Env)
	if s.plan.Jail != nil {
		env = s.plan.Env // nothing of the host's, as Firecracker's jailer does
	}
	return become(s.program, argv, env, slices.Concat(s.files.inherited(), s.disks.inherited()))
}
