package spec

import (
	"fmt"
	"strings"
)

// Fault is one thing that is wrong with a document.
type Fault struct {
	// Path names the field, as in interfaces[1].id; empty means the whole.
	Path string
	// Message says what is wrong and what to write instead.
	Message string
	// yields says that the remedy is not every hypervisor's: what a hypervisor's
	// rule says of the same path is better.
	yields bool
	// unknown says that the document has a field there that no spec has.
	unknown bool
}

// Error implements error.
func (f Fault) Error() string {
	if f.Path == "" {
		return f.Message
	}
	return f.Path + ": " + f.Message
}

// Faults is everything that is wrong with a document, in document order.
type Faults []Fault

// Error implements error; one fault a line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Permanent reports that no retry helps, to package exit.
func (fs Faults) Permanent() bool { return true }

// Err returns nil where there is no fault.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// Addf appends a fault.
func (fs *Faults) Addf(path, format string, args ...any) {
	*fs = append(*fs, Fault{Path: path, Message: fmt.Sprintf(format, args...)})
}

// yield marks the last fault as one that yields.
func (fs Faults) yield() { fs[len(fs)-1].yields = true }

// Unknown says that value is none of those that are allowed.
func Unknown(value string, allowed []string) string {
	if value == "" {
		return "is missing; write one of " + strings.Join(allowed, ", ")
	}
	return fmt.Sprintf("%q is not known%s; write one of %s", value, suggestion(value, allowed), strings.Join(allowed, ", "))
}

// nearest returns the candidate that a person most likely meant, or "".
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 1+len(word)/3
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d <= bestDistance {
			if best == "" || d < bestDistance {
				best, bestDistance = c, d
			}
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// suggestion is " (did you mean X?)", or empty.
func suggestion(word string, candidates []string) string {
	if s := nearest(word, candidates); s != "" {
		return fmt.Sprintf(" (did you mean %q?)", s)
	}
	return ""
}
