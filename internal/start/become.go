package start

import "slices"

// become starts the readiness child and executes the hypervisor. It returns only
// on failure.
func (s *start) become() error {
	listener, err := s.listen()
	if err != nil {
		return err
	}
	key, err := newKey(s.plan)
	if err != nil {
		return explain("key", err)
	}
	values := &startValues{files: s.files, listener: listener, shutdownKey: key, packageDir: s.pkg.Dir(), arch: s.plan.Arch}
	argv, err := values.expandAll(slices.Concat(s.plan.Argv, landlock(s.plan, s.Logf)))
	if err != nil {
		return err
	}
	if err := values.write(s.plan.Generated); err != nil {
		return err
	}
	if err := s.announce(listener); err != nil {
		return err
	}
	if err := standardInput(s.plan); err != nil {
		return err
	}
	return execute(s.program, s.arguments(argv), environment(s.plan), slices.Concat(s.files.inherited(), s.disks.inherited()))
}
