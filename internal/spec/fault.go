package spec

import (
	"errors"
	"fmt"
	"strings"
)

// Fault is one thing that is wrong with a document.
type Fault struct {
	// Path names the field, as in interfaces[1].id; empty means the whole document.
	Path string
	// Message is what is wrong.
	Message string
	// Remedy is what to write instead; it may be empty.
	Remedy string
	// yields means that not every hypervisor accepts the remedy: a fault of the
	// same path that a hypervisor's rule finds replaces this one.
	yields bool
	// unknown means that the document has a field that no spec has.
	unknown bool
}

// String returns the fault without its remedy, on one line.
func (f Fault) String() string {
	if f.Path == "" {
		return f.Message
	}
	return f.Path + ": " + f.Message
}

// Hintf sets the remedy, formatted as by fmt.Sprintf, and returns f.
func (f *Fault) Hintf(format string, args ...any) *Fault {
	f.Remedy = fmt.Sprintf(format, args...)
	return f
}

// yield marks the fault as one that yields.
func (f *Fault) yield() { f.yields = true }

// Faults is everything that is wrong with a document, in document order.
type Faults []Fault

// Error implements error; it returns one line per fault, without the remedies.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns one error per fault, in their order. Those with a remedy have the
// method Hint, by which package exit prints it directly below the fault.
func (fs Faults) Unwrap() []error {
	errs := make([]error, len(fs))
	for i, f := range fs {
		text := f.String()
		if i > 0 {
			// Package exit searches for the text. "socket: …" is also the end of
			// "graphics.socket: …", but only a line of its own follows a line break.
			text = "\n" + text
		}
		errs[i] = errors.New(text)
		if f.Remedy != "" {
			errs[i] = &hinted{text, f.Remedy}
		}
	}
	return errs
}

// Permanent reports that no retry helps, to package exit.
func (fs Faults) Permanent() bool { return true }

// Err returns fs as an error, or nil where there is no fault.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// Addf appends a fault whose message is formatted as by fmt.Sprintf. The fault that
// it returns is valid until the next one is appended.
func (fs *Faults) Addf(path, format string, args ...any) *Fault {
	*fs = append(*fs, Fault{Path: path, Message: fmt.Sprintf(format, args...)})
	return &(*fs)[len(*fs)-1]
}

// Add appends err with its remedy as a fault at path, unless err is nil.
func (fs *Faults) Add(path string, err error) {
	if err == nil {
		return
	}
	f := fs.Addf(path, "%v", err)
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		f.Remedy = h.Hint()
	}
}

// AddUnknown appends the fault that value is not one of those that are allowed. The
// fault that it returns is valid until the next one is appended.
func (fs *Faults) AddUnknown(path, value string, allowed []string) *Fault {
	remedy := "use one of " + strings.Join(allowed, ", ")
	if value == "" {
		return fs.Addf(path, "is required").Hintf("%s", remedy)
	}
	return fs.Addf(path, "unknown value %q%s", value, suggestion(value, allowed)).Hintf("%s", remedy)
}

// hinted is an error with a remedy. Package exit prints it; this package does not
// import that one, which stands above it.
type hinted struct{ text, hint string }

// Error implements error.
func (h *hinted) Error() string { return h.text }

// Hint returns the remedy.
func (h *hinted) Hint() string { return h.hint }

// withHint returns an error with that text and a remedy.
func withHint(text, hint string) error { return &hinted{text, hint} }

// nearest returns the candidate that was most likely meant by word, or "".
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

// distance returns the Levenshtein distance of a and b in bytes.
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

// suggestion returns " (did you mean X?)", or "" where no candidate is near.
func suggestion(word string, candidates []string) string {
	if s := nearest(word, candidates); s != "" {
		return fmt.Sprintf(" (did you mean %q?)", s)
	}
	return ""
}
