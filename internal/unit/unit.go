// Package unit defines the systemd units of a VM: the templates, their purpose, which
// of them a plan needs, their names, and the drop-ins of one VM.
//
// The unit files are in systemd/. They are templates with one instance for each VM. All
// programs get what they have to agree on from this package, and the NixOS modules from
// its units.json.
package unit

//go:generate go test -run TestTheNixModulesReadThisTable -update .

import (
	"strings"

	"microvm/internal/hypervisor"
)

// suffix is the suffix of all our units.
const suffix = ".service"

// Template is a unit template.
type Template struct {
	// Name is the name of the template without "@.service".
	Name string
	// Program is the program that it runs, in the directory of our programs.
	Program string
	// Option is the option of a NixOS configuration that makes a VM need it, nil if it
	// does not depend on a list of options.
	Option *Option
	// Record is the name, without ".json", of the program's record in the VM's directory
	// below /run/microvm, empty if it has none.
	Record string
	// What is what the unit provides for the VM, in the plural, for messages. It is
	// empty for Main.
	What string
	// Lasting is set for units that stay active as long as the VM, and undo what they
	// did when they stop.
	Lasting bool

	needs func(*hypervisor.Plan) bool
}

// Option is an entry in a list of a VM's options that makes the VM need a helper.
type Option struct {
	// List is the name of the list, Key the field of the entry, Value the field's value.
	List  string `json:"list"`
	Key   string `json:"key"`
	Value string `json:"value"`
}

// The templates.
var (
	// SetBooted pins the runner package that all later units of a start use.
	SetBooted = Template{
		Name: "microvm-set-booted", Program: "microvm-set-booted", What: "helpers",
	}
	Taps = Template{
		Name: "microvm-tap-interfaces", Program: "microvm-tap-interfaces", What: "tap interfaces",
		Option: &Option{"interfaces", "type", "tap"}, Record: "tap-interfaces", Lasting: true,
		needs: func(p *hypervisor.Plan) bool { return len(p.Taps) > 0 },
	}
	Macvtaps = Template{
		Name: "microvm-macvtap-interfaces", Program: "microvm-macvtap-interfaces", What: "macvtap interfaces",
		Option: &Option{"interfaces", "type", "macvtap"}, Record: "macvtap-interfaces", Lasting: true,
		needs: func(p *hypervisor.Plan) bool { return len(p.Macvtaps) > 0 },
	}
	PCI = Template{
		Name: "microvm-pci-devices", Program: "microvm-pci-devices", What: "PCI devices",
		Option: &Option{"devices", "bus", "pci"}, Record: "pci-devices", Lasting: true,
		needs: func(p *hypervisor.Plan) bool { return len(p.PCI) > 0 },
	}
	Virtiofsd = Template{
		Name: "microvm-virtiofsd", Program: "microvm-virtiofsd", What: "virtiofs shares",
		Option: &Option{"shares", "proto", "virtiofs"}, Record: "virtiofsd", Lasting: true,
		needs: func(p *hypervisor.Plan) bool { return len(p.Shares) > 0 },
	}
	// Main runs the hypervisor.
	Main = Template{
		Name: "microvm", Program: "microvm-run-wrapper",
	}
	// Machined registers a running VM with systemd-machined.
	Machined = Template{
		Name: "microvm-machined", Program: "microvm-run-wrapper", What: "registration with systemd-machined",
		needs: func(p *hypervisor.Plan) bool { return p.Machined != nil },
	}
)

// Templates returns all templates, in the order of a start.
func Templates() []Template {
	return []Template{SetBooted, Taps, Macvtaps, PCI, Virtiofsd, Main, Machined}
}

// Needs reports whether a VM of that plan needs the unit. SetBooted is needed if there
// are helpers, Main always.
func (t Template) Needs(p *hypervisor.Plan) bool {
	switch {
	case t.Is(SetBooted):
		return len(Helpers(p)) > 0
	case t.Is(Main):
		return true
	}
	return t.needs(p)
}

// Of returns the name of the VM's unit.
func (t Template) Of(vm string) string { return t.Name + "@" + vm + suffix }

// Is reports whether t and other are the same template.
func (t Template) Is(other Template) bool { return t.Name == other.Name }

// ByRecord returns the template whose program writes the record of that name. ok is
// false if there is none.
func ByRecord(name string) (t Template, ok bool) {
	for _, t := range Templates() {
		if t.Record == name && name != "" {
			return t, true
		}
	}
	return Template{}, false
}

// Helpers returns the templates that a plan needs in addition to Main and SetBooted.
func Helpers(p *hypervisor.Plan) []Template {
	var out []Template
	for _, t := range Templates() {
		if !t.Is(SetBooted) && !t.Is(Main) && t.Needs(p) {
			out = append(out, t)
		}
	}
	return out
}

// VM returns the name of the unit that runs a VM's hypervisor.
func VM(name string) string { return Main.Of(name) }

// All returns the names of a VM's units: the one that installs it, then the others in
// the order of a start.
func All(vm string) []string {
	out := []string{Install(vm)}
	for _, t := range Templates() {
		out = append(out, t.Of(vm))
	}
	return out
}

// Install returns the name of the unit with which a NixOS host installs a VM.
func Install(vm string) string { return "install-microvm-" + vm + suffix }

// Apart returns the name of a transient unit in which a program does something for a VM
// that has to outlive the program.
func Apart(program, what, vm string) string { return program + "-" + what + "-" + vm + suffix }

// Parse returns the template and the VM of a unit's name. ok is false if the unit is not
// an instance of a template.
func Parse(name string) (t Template, vm string, ok bool) {
	instance, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return Template{}, "", false
	}
	before, vm, ok := strings.Cut(instance, "@")
	if !ok || vm == "" {
		return Template{}, "", false
	}
	for _, t := range Templates() {
		if t.Name == before {
			return t, vm, true
		}
	}
	return Template{}, "", false
}

// VMOf returns the VM whose hypervisor runs in the unit of that name. ok is false for
// any other unit.
func VMOf(name string) (vm string, ok bool) {
	t, vm, ok := Parse(name)
	return vm, ok && t.Is(Main)
}

// Short returns a unit's name without ".service", for messages. systemctl accepts it.
func Short(name string) string { return strings.TrimSuffix(name, suffix) }

// Process returns the process name of a VM's hypervisor, which is also the identifier of
// its start in the journal.
func Process(vm string) string { return Main.Name + "@" + vm }

// VMOfProcess returns the VM whose hypervisor has that process name. ok is false for any
// other process.
func VMOfProcess(name string) (vm string, ok bool) { return strings.CutPrefix(name, Main.Name+"@") }

// Patterns of unit names, as for systemctl(1).
const (
	// EveryVM matches the main unit of each VM.
	EveryVM = "microvm@*.service"
	// Every matches all units of all VMs.
	Every = "microvm*@*.service"
)

// EveryOf returns the pattern of all units of a VM.
func EveryOf(vm string) string { return "microvm*@" + vm + suffix }

// HelpersOf returns the pattern of all units of a VM except its main unit.
func HelpersOf(vm string) string { return "microvm-*@" + vm + suffix }

// Slice is the control group in which systemd puts the main units of VMs, the slice of
// their template, systemd.slice(5), unless Slice= is set.
const Slice = "system.slice/system-microvm.slice"

// Target is the target that starts VMs at boot.
const Target = "microvms.target"

// RequiresDir returns the directory, below that of the host's units, of the links with
// which earlier versions made a VM's unit require its helpers.
func RequiresDir(vm string) string { return VM(vm) + ".requires" }

// OwnRequire reports whether a link in RequiresDir is one of ours. Operators may have
// added links of their own.
func OwnRequire(name string) bool { return strings.HasPrefix(name, "microvm-") }
