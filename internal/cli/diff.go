package cli

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/hypervisor"
)

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

// planDiff is what changed between two plans: lines of the one with "-" and of
// the other with "+".
func planDiff(before, after *hypervisor.Plan) []string {
	diff := diffLines(planLines(before), planLines(after))
	if len(diff) == 0 && !samePlan(before, after) {
		return []string{"the plan differs in details; see it with: microvm show --json"}
	}
	return diff
}

// diffLines are the lines that are in one list only, in order, by the longest
// common subsequence.
func diffLines(a, b []string) []string {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}
