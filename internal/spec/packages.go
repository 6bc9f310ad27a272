package spec

import "path/filepath"

// packages returns the fields that name a package, by path. A package is a directory
// of which the host runs a program.
func (s *Spec) packages() map[string]*string {
	return map[string]*string{
		"qemu.package":             &s.QEMU.Package,
		"cloud-hypervisor.package": &s.CloudHypervisor.Package,
		"firecracker.package":      &s.Firecracker.Package,
		"crosvm.package":           &s.Crosvm.Package,
		"kvmtool.package":          &s.Kvmtool.Package,
		"stratovirt.package":       &s.Stratovirt.Package,
		"alioth.package":           &s.Alioth.Package,
		"virtiofsd.package":        &s.Virtiofsd.Package,
		"graphics.crosvmPackage":   &s.Graphics.CrosvmPackage,
	}
}

// resolvePackages makes relative packages absolute. When a VM starts, a relative one
// would be looked up in its state directory, where its hypervisor can write.
func (s *Spec) resolvePackages(dir string) {
	for _, p := range s.packages() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// packagePaths refuses packages that are still relative.
func (v *validator) packagePaths() {
	for path, p := range v.spec.packages() {
		v.absolute(path, *p)
	}
}
