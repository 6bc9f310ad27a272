package cli

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
)

func (c *Command) printPlan(p *hypervisor.Plan) {
	row := func(label, format string, args ...any) { c.printf("%-12s %s\n", label, fmt.Sprintf(format, args...)) }
	if p.Name != "" {
		row("name", "%s", p.Name)
	}
	row("hypervisor", "%s", p.Hypervisor)
	row("ready when", "%s: %s", p.Readiness.Mode, p.Readiness.Why)
	row("goes down by", "%s: %s", p.Shutdown.Method, p.Shutdown.Why)
	for _, v := range p.Volumes {
		row("volume", "%s, %d MiB, %s", v.Image, v.SizeMiB, v.FSType)
	}
	for _, t := range p.Taps {
		row("tap", "%s", t.ID)
	}
	for _, m := range p.Macvtaps {
		row("macvtap", "%s on %s, %s", m.ID, m.Link, m.Mode)
	}
	for _, s := range p.Shares {
		row("share", "%s: %s", s.Tag, s.Source)
	}
	for _, d := range p.PCI {
		row("device", "%s", d.Address)
	}
	if p.Console != "" {
		row("console", "%s", p.Console)
	}
	for _, n := range p.Notes {
		row("note", "%s", n)
	}
	c.printf("command line\n")
	for _, a := range slices.Concat(p.Argv, p.Landlock) {
		c.printf("  %s\n", a)
	}
}

// planLines is a plan as microvm show prints it, with each flag of the command
// line and its value on one line, so that a change shows what it is a change
// of.
func planLines(p *hypervisor.Plan) []string {
	var lines []string
	for _, v := range p.Volumes {
		lines = append(lines, fmt.Sprintf("volume %s, %d MiB, %s", v.Image, v.SizeMiB, v.FSType))
	}
	for _, t := range p.Taps {
		lines = append(lines, "tap "+t.ID)
	}
	for _, m := range p.Macvtaps {
		lines = append(lines, fmt.Sprintf("macvtap %s on %s, %s", m.ID, m.Link, m.Mode))
	}
	for _, s := range p.Shares {
		lines = append(lines, fmt.Sprintf("share %s: %s", s.Tag, s.Source))
	}
	for _, d := range p.PCI {
		lines = append(lines, "device "+d.Address)
	}
	lines = append(lines, "ready when "+p.Readiness.Mode, "goes down by "+p.Shutdown.Method)
	for _, g := range p.Generated {
		for line := range strings.Lines(g.Content) {
			lines = append(lines, g.Path+": "+strings.TrimSpace(line))
		}
	}
	argv := slices.Concat(p.Argv, p.Landlock)
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
