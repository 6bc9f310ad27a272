package cli

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
)

// planFact is one property of a plan, in a form for people.
type planFact struct {
	label, text string
	// shown is what microvm show prints instead of text, with the reasons; empty if it
	// is the same.
	shown string
	// aside marks a fact that is left out when plans are compared: it never changes, or
	// it is also part of the command line.
	aside bool
}

// planFacts returns the properties of a plan, without its command line and its files.
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
		planFact{label: "shut down by", text: p.Shutdown.Method, shown: p.Shutdown.Method + ": " + p.Shutdown.Why})
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

// printPlan prints a plan, and its command line with one argument per line.
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

// planLines returns the lines by which two plans are compared. A flag of the command
// line and its value are on one line, so that the changed flag is visible.
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

// commandLine returns the hypervisor's command line, with the arguments that are added if
// the kernel has Landlock.
func commandLine(p *hypervisor.Plan) []string { return slices.Concat(p.Argv, p.Landlock) }
