package cli

import (
	"bytes"
	"encoding/json"

	"microvm/internal/hypervisor"
)

// planDiff returns the changes between two plans as lines that begin with "-" for the
// old plan and "+" for the new one.
func planDiff(before, after *hypervisor.Plan) []string {
	diff := diffLines(planLines(before), planLines(after))
	if len(diff) == 0 && !samePlan(before, after) {
		return []string{"other details of the plan (see: microvm show --json)"}
	}
	return diff
}

// diffLines returns the lines that are in only one of two lists, in order, by their
// longest common subsequence.
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

// samePlan reports whether two plans are equal, apart from their programs, which
// contain the path of the package.
func samePlan(a, b *hypervisor.Plan) bool {
	one, other := *a, *b
	one.Programs, other.Programs = nil, nil
	x, errX := json.Marshal(one)
	y, errY := json.Marshal(other)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
