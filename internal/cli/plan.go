package cli

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
)

// planFact is one thing that a plan says, in words for people.
type planFact struct {
	label, text string
	// shown is what microvm show prints in place of text, with the reasons; empty
	// where it is the same.
	shown string
	// aside is a fact that is no part of what a change changes: it stays, or the
	// command line has it as well.
	aside bool
}

// planFacts are what a plan says beside its command line and its files.
func planFacts(p *hypervisor.Plan) []planFact {
	var facts []planFact
	aside := func(label, text string) {
		facts = append(facts, planFact{label: label, text: text, aside: true})
	}
	add := func(label, format string, args ...any) {
		facts = append(facts, planFact{label: label, text: fmt.Sprintf(format, args...)})
	}
	if p.Name != "" {
		aside("name", p.Name)
	}
	aside("hypervisor", p.Hypervisor)
	facts = append(facts,
		planFact{label: "ready when", text: p.Readiness.Mode, shown: p.Readiness.Mode + ": " + p.Readiness.Why},
		planFact{label: "goes down by", text: p.Shutdown.Method, shown: p.Shutdown.Method + ": " + p.Shutdown.Why})
	for _, v := range p.Volumes {
		add("volume", "%s, %d MiB, %s", v.Image, v.SizeMiB, v.FSType)
	}
	for _, t := range p.Taps {
		add("tap", "%s", t.ID)
	}
	for _, m := range p.Macvtaps {
		add("macvtap", "%s on %s, %s", m.ID, m.Link, m.Mode)
	}
	for _, s := range p.Shares {
		add("share", "%s: %s", s.Tag, s.Source)
	}
	for _, d := range p.PCI {
		add("device", "%s", d.Address)
	}
	if p.Console != "" {
		aside("console", p.Console)
	}
	for _, n := range p.Notes {
		aside("note", n)
	}
	return facts
}

// printPlan prints all that a plan says, and its command line, an argument a line.
func printPlan(c *Command, p *hypervisor.Plan) {
	for _, f := range planFacts(p) {
		text := f.text
		if f.shown != "" {
			text = f.shown
		}
		c.printf("%-12s %s\n", f.label, text)
	}
	c.printf("command line\n")
	for _, a := range commandLine(p) {
		c.printf("  %s\n", a)
	}
}

// planLines are what two plans are compared by, in the words of microvm show, with
// each flag of the command line and its value on one line, so that a change shows
// what it is a change of.
func planLines(p *hypervisor.Plan) []string {
	var lines []string
	for _, f := range planFacts(p) {
		if !f.aside {
			lines = append(lines, f.label+" "+f.text)
		}
	}
	for _, g := range p.Generated {
		for line := range strings.Lines(g.Content) {
			lines = append(lines, g.Path+": "+strings.TrimSpace(line))
		}
	}
	argv := commandLine(p)
	for i := 0; i < len(argv); i++ {
		line := argv[i]
		if strings.HasPrefix(line, "-") && i+1 < len(argv) && !strings.HasPrefix(argv[i+1], "-") {
			i++
			line += " " + argv[i]
		}
		lines = append(lines, line)
	}
	return lines
}

// commandLine is the hypervisor's, with what is added where the kernel has Landlock.
func commandLine(p *hypervisor.Plan) []string { return slices.Concat(p.Argv, p.Landlock) }
