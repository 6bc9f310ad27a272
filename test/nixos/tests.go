package main

// test is one host's life.
type test struct {
	name string
	// boot is the generation that it boots.
	boot string
	// upstream says that it wants a tree of microvm.nix.
	upstream bool
	run      func(m *machine)
}

var tests = []test{
	{name: "AHostWithoutVMsBootsAndSwitches", boot: "none", run: func(m *machine) {
		m.want("readlink /run/booted-system", m.systems["none"])
		m.must("switch", "none")
		m.want("systemctl list-units --state=failed --no-legend --plain", "")
	}},
}
