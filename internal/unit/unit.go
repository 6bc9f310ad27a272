// Package unit knows the systemd units of a VM: which there are, what each is for,
// which of them a plan needs, what they are called, and what is added to them for
// one VM, as drop-ins.
//
// The units themselves are the files in systemd/, templates with one instance for
// each VM. What all programs have to agree on about them is here and nowhere else;
// the NixOS modules read it from units.json.
package unit

//go:generate go test -run TestTheNixModulesReadThisTable -update .

import (
	"strings"

	"microvm/internal/hypervisor"
)

// suffix is that of the names of all units of ours.
const suffix = ".service"

// Template is one of the unit templates.
type Template struct {
	// Name is the template's, without "@.service".
	Name string
	// Program is what it runs, in the directory of the programs.
	Program string
	// Option is what a NixOS configuration has it for; nil where that is nothing
	// in a list.
	Option *Option
	// Record is the name of the file, without ".json", in the VM's directory below
	// /run/microvm that says what the program did; empty where there is none.
	Record string
	// What it gives the VM, in the plural, for messages; empty for the VM's own.
	What string
	// Lasting ones stay up as long as the VM, and undo what they did when they go.
	Lasting bool

	needs func(*hypervisor.Plan) bool
}

// Option is a list of a VM's options of which one makes the VM need a helper.
type Option struct {
	// List is the name of the list, Key that of the field, Value what it has.
	List  string `json:"list"`
	Key   string `json:"key"`
	Value string `json:"value"`
}

// The templates.
var (
	// SetBooted pins the runner that a start uses, for those that come after it.
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
	// Machined registers a VM that is up.
	Machined = Template{
		Name: "microvm-machined", Program: "microvm-run-wrapper", What: "registration with systemd-machined",
		needs: func(p *hypervisor.Plan) bool { return p.Machined != nil },
	}
)

// Templates are all templates, in the order of a start.
func Templates() []Template {
	return []Template{SetBooted, Taps, Macvtaps, PCI, Virtiofsd, Main, Machined}
}

// Needs reports whether a VM of that plan has something for the unit to do. What
// SetBooted pins is for the helpers; Main is what they are for.
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

// ByRecord returns the template whose program keeps the record of that name; ok is
// false for a record of something else.
func ByRecord(name string) (t Template, ok bool) {
	for _, t := range Templates() {
		if t.Record == name && name != "" {
			return t, true
		}
	}
	return Template{}, false
}

// Helpers returns the templates that a plan needs beside the VM's own and the one
// that pins the runner, which every start has.
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

// All returns the names of a VM's units: the one that installs it, then those of a
// start, in its order.
func All(vm string) []string {
	out := []string{Install(vm)}
	for _, t := range Templates() {
		out = append(out, t.Of(vm))
	}
	return out
}

// Install returns the name of the unit by which a NixOS host installs a VM.
func Install(vm string) string { return "install-microvm-" + vm + suffix }

// Apart returns the name of a unit that a program of ours starts to do something
// for a VM that has to outlive its caller.
func Apart(program, what, vm string) string { return program + "-" + what + "-" + vm + suffix }

// Parse returns the template and the VM of a unit's name. ok is false for a unit
// that is not an instance of a template.
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

// VMOf returns the VM whose hypervisor runs in the unit of that name; ok is false
// for any other unit.
func VMOf(name string) (vm string, ok bool) {
	t, vm, ok := Parse(name)
	return vm, ok && t.Is(Main)
}

// Short returns a unit's name as messages have it and systemctl takes it: without
// ".service".
func Short(name string) string { return strings.TrimSuffix(name, suffix) }

// Process returns what the process of a VM's hypervisor, and the lines of its
// start in the journal, are called.
func Process(vm string) string { return Main.Name + "@" + vm }

// VMOfProcess returns the VM whose hypervisor a process of that name is.
func VMOfProcess(name string) (vm string, ok bool) { return strings.CutPrefix(name, Main.Name+"@") }

// Patterns, as systemctl(1) takes them, of more than one unit.
const (
	// EveryVM is the unit of each VM.
	EveryVM = "microvm@*.service"
	// Every is each unit of each VM.
	Every = "microvm*@*.service"
)

// EveryOf returns the pattern of all units of a VM.
func EveryOf(vm string) string { return "microvm*@" + vm + suffix }

// HelpersOf returns the pattern of all units of a VM but the one of its hypervisor.
func HelpersOf(vm string) string { return "microvm-*@" + vm + suffix }

// Slice is the control group, below that of the system, in which systemd keeps the
// units of the VMs: that of their template, systemd.slice(5), unless Slice= says
// otherwise.
const Slice = "system.slice/system-microvm.slice"

// Target is what starts the VMs that start at boot.
const Target = "microvms.target"

// RequiresDir returns the directory of the links by which earlier versions made a
// VM's unit require its helpers, below that of the host's units.
func RequiresDir(vm string) string { return VM(vm) + ".requires" }

// OwnRequire reports whether a link in RequiresDir is one of those; others may have
// made links of their own.
func OwnRequire(name string) bool { return strings.HasPrefix(name, "microvm-") }
