package hypervisor

import (
	"fmt"
	"strings"
)

// Versions are those of a hypervisor for which all decisions of a plan are the
// same. It says no more than that, so that an update of the hypervisor on which
// nothing depends does not change the package.
type Versions struct {
	// Unknown says that the program could not be asked. The oldest was assumed.
	Unknown bool `json:"unknown,omitempty"`
	// From is the oldest, Before the first that is too new, as MAJOR.MINOR; empty
	// is no limit.
	From   string `json:"from,omitempty"`
	Before string `json:"before,omitempty"`
}

// version is MAJOR.MINOR.
type version struct{ major, minor int }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) less(w version) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

// parseVersion reads what String writes.
func parseVersion(text string) (v version, ok bool) {
	n, err := fmt.Sscanf(text, "%d.%d", &v.major, &v.minor)
	return v, err == nil && n == 2
}

// String is for people.
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

// Includes says whether the plan is right for that version.
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

// answer narrows the versions by one question: is it at least that one?
func (v *Versions) answer(asked version, yes bool) {
	if v == nil || asked == (version{}) { // every version is
		return
	}
	if from, ok := parseVersion(v.From); yes && (!ok || from.less(asked)) {
		v.From = asked.String()
	}
	if before, ok := parseVersion(v.Before); !yes && (!ok || asked.less(before)) {
		v.Before = asked.String()
	}
}

// record writes down what a plan depends on.
func (v *Versions) record(p *Plan) {
	if *v != (Versions{}) {
		p.CompiledFor = v
	}
}

// UnknownVersion says what it means that the version was unknown.
func (p *Plan) UnknownVersion() string {
	off := "what depends on it is off"
	if p.Hypervisor == "cloud-hypervisor" {
		off += ", Landlock among it"
	}
	return fmt.Sprintf("the version of %s was unknown when this was built: %s", p.Argv[0], off)
}
