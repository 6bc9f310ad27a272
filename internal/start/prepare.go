package start

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
