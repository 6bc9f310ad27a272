package start

// prepare opens the devices, switches to the hypervisors' user, creates the volumes
// and runs the commands that come before the hypervisor.
func (s *start) prepare() (err error) {
	if s.files, err = s.macvtaps(s.plan.Macvtaps); err != nil {
		return err
	}
	// What follows creates files that the hypervisor writes, and runs programs of the
	// package.
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
