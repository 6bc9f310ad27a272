package hypervisor

import (
	"fmt"
	"strings"
)

// Versions is the range of a hypervisor's versions for which a plan is the same. The exact
// version is not recorded, so that an update of the hypervisor changes a package only if
// something depends on it.
type Versions struct {
	// Unknown means that the version was not known, and the oldest one was assumed.
	Unknown bool `json:"unknown,omitempty"`
	// From is the oldest version, and Before the first that is too new, as MAJOR.MINOR;
	// empty means no limit.
	From   string `json:"from,omitempty"`
	Before string `json:"before,omitempty"`
}

// version is MAJOR.MINOR.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) less(w version) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

// parseVersion parses what version.String returns.
func parseVersion(text string) (v version, ok bool) {
	n, err := fmt.Sscanf(text, "%d.%d", &v.major, &v.minor)
	return v, err == nil && n == 2
}

// String describes the range for messages.
func (v *Versions) String() string {
	switch {
	case v.Unknown:
		return "an unknown version"
	case v.From == "":
		return "versions before " + v.Before
	case v.Before == "":
		return v.From + " or newer"
	}
	return strings.Join([]string{v.From, "or newer, before", v.Before}, " ")
}

// Includes reports whether that version is in the range.
func (v *Versions) Includes(major, minor int) bool {
	have := version{major, minor}
	if from, ok := parseVersion(v.From); ok && have.less(from) {
		return false
	}
	before, ok := parseVersion(v.Before)
	return !v.Unknown && (!ok || have.less(before))
}

func (v *Versions) unknown() {
	if v != nil {
		v.Unknown = true
	}
}

// answer narrows the range by the answer to whether the version is at least asked.
func (v *Versions) answer(asked version, yes bool) {
	if v == nil || asked == (version{}) { // true for every version
		return
	}
	if from, ok := parseVersion(v.From); yes && (!ok || from.less(asked)) {
		v.From = asked.String()
	}
	if before, ok := parseVersion(v.Before); !yes && (!ok || asked.less(before)) {
		v.Before = asked.String()
	}
}

// record sets CompiledFor of p.
func (v *Versions) record(p *Plan) {
	if *v != (Versions{}) {
		p.CompiledFor = v
	}
}

// UnknownVersion describes the consequence of an unknown version, for messages.
func (p *Plan) UnknownVersion() string {
	off := "features of newer versions are off"
	if p.Hypervisor == "cloud-hypervisor" {
		off += ", including Landlock"
	}
	return fmt.Sprintf("the version of %s was unknown when this was built: %s", p.Argv[0], off)
}
