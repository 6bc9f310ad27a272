// Package timeline divides the time of a VM's start into phases, using systemd's
// timestamps and what the VM's unit has logged.
package timeline

import (
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Clock is a time of CLOCK_MONOTONIC, since the host was booted, as in systemd's
// properties and the journal's fields.
type Clock = time.Duration

// Unit is one of the VM's units, with the times at which its last start began and ended:
// InactiveExitTimestampMonotonic and ActiveEnterTimestampMonotonic of
// org.freedesktop.systemd1(5).
type Unit struct {
	Name          string
	Began, Active Clock
}

// Fields of the journal entry that the VM's own unit writes when it is ready, in
// microseconds since the hypervisor was executed. The text of the entry is not parsed,
// because a guest can print the same text.
const (
	// ReadyField is when READY=1 was sent.
	ReadyField = "MICROVM_READY_USEC"
	// ReportField is when the guest first reported. It is absent if it did not.
	ReportField = "MICROVM_REPORT_USEC"
)

// Entry is one journal entry of the VM's own unit.
type Entry struct {
	At   Clock
	Text string
	// Ready and Report are the values of ReadyField and ReportField; 0 if the entry does
	// not have them.
	Ready, Report time.Duration
}

// Micros returns the value of ReadyField or ReportField, or 0 if it is invalid.
func Micros(field string) time.Duration {
	n, err := strconv.ParseInt(field, 10, 64)
	if err != nil || n < 0 || n > maxMicros {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// maxMicros is longer than any start, and does not overflow a time.Duration.
const maxMicros = 1e12

// Start is what is known about a start.
type Start struct {
	// Helpers are the units that the VM's own unit waits for.
	Helpers []Unit
	// VM is the VM's own unit; its main process was started at Executed.
	VM       Unit
	Executed Clock
	// Restarted reports whether this was an automatic restart by systemd, which does not
	// start the helpers.
	Restarted bool
	Log       []Entry
}

// Phase is one part of a start.
type Phase struct {
	Name string
	// What describes the phase. It may be empty.
	What string
	// Began is the time since the beginning of the start.
	Began, Took time.Duration
}

// Timeline is a start, divided into phases.
type Timeline struct {
	Phases []Phase
	// Total is the time from the beginning to READY=1.
	Total time.Duration
}

// Longest returns the longest phase, or a zero Phase if there is none.
func (t Timeline) Longest() Phase {
	if len(t.Phases) == 0 {
		return Phase{}
	}
	return slices.MaxFunc(t.Phases, func(a, b Phase) int { return int(a.Took - b.Took) })
}

// adjoining is the longest gap between two units that belong to the same start.
const adjoining = time.Second

// Of returns the timeline of a start, after which the VM must have become ready.
func Of(s Start) Timeline {
	began := s.VM.Began
	if s.Restarted {
		began = s.Executed
	}
	first := began
	var units []Unit
	if !s.Restarted {
		units = waitedFor(s.Helpers, began)
		for _, u := range units {
			first = min(first, u.Began)
		}
	}
	var t Timeline
	add := func(name, what string, from, to Clock) {
		if to >= from {
			t.Phases = append(t.Phases, Phase{name, what, from - first, to - from})
		}
	}
	for _, u := range units {
		add(u.Name, "", u.Began, u.Active)
	}
	marks := readLog(s.Log)
	ready := s.VM.Active
	exec := within(marks.hypervisor, began, ready)
	if exec == 0 {
		add("hypervisor", "until READY", began, ready)
		t.Total = ready - first
		return t
	}
	add("run-wrapper", "volumes, descriptors", began, exec)
	at, name := exec, "hypervisor"
	if kernel := within(marks.kernel, exec, ready); kernel != 0 {
		add(name, "until the kernel's first line", at, kernel)
		at, name = kernel, "kernel"
	}
	if report := within(marks.report, at, ready); report != 0 {
		what := "and kernel, until the guest's first report"
		if name == "kernel" {
			what = "until the guest's first report"
		}
		add(name, what, at, report)
		at, name = report, "guest"
	}
	add(name, "until READY", at, ready)
	t.Total = ready - first
	return t
}

// waitedFor returns the helpers that belong to the start that began at began, in their
// order.
func waitedFor(helpers []Unit, began Clock) []Unit {
	out := slices.DeleteFunc(slices.Clone(helpers), func(u Unit) bool {
		return u.Began == 0 || u.Active < u.Began || u.Active > began+adjoining
	})
	slices.SortStableFunc(out, func(a, b Unit) int { return int(a.Began - b.Began) })
	// From the last to the first: each must adjoin the one that follows.
	first := began
	for i := len(out) - 1; i >= 0; i-- {
		if out[i].Active < first-adjoining {
			return out[i+1:]
		}
		first = min(first, out[i].Began)
	}
	return out
}

// within returns at if it lies between from and to, and otherwise 0.
func within(at, from, to Clock) Clock {
	if at < from || at > to {
		return 0
	}
	return at
}

// marks are the times that were found in the log; 0 if not found.
type marks struct{ hypervisor, kernel, report Clock }

// kernelLine matches a line of the guest's kernel, with the time since the kernel started.
var kernelLine = regexp.MustCompile(`^\[ *([0-9]+\.[0-9]+)\] `)

// readLog returns the marks. The last entry that has the fields counts: it is written
// when READY=1 is sent, which is where the log ends.
func readLog(log []Entry) marks {
	var m marks
	for _, e := range log {
		if k := kernelLine.FindStringSubmatch(e.Text); k != nil && m.kernel == 0 {
			m.kernel = e.At - seconds(k[1])
		}
		if e.Ready > 0 {
			m.hypervisor, m.report = e.At-e.Ready, 0
			if e.Report > 0 {
				m.report = m.hypervisor + e.Report
			}
		}
	}
	return m
}

func seconds(text string) time.Duration {
	s, err := strconv.ParseFloat(text, 64)
	if err != nil || s > 1e6 {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}
