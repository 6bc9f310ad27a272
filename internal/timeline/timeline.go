// Package timeline says where the time of a VM's start went, from systemd's own
// timestamps and from what the VM's unit logged meanwhile.
package timeline

import (
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Clock is a time of CLOCK_MONOTONIC, since the host was booted, as systemd's
// properties and the journal's fields have it.
type Clock = time.Duration

// Unit is one of the VM's units: its name and when it last began and ended to
// start. org.freedesktop.systemd1(5): InactiveExitTimestampMonotonic and
// ActiveEnterTimestampMonotonic.
type Unit struct {
	Name          string
	Began, Active Clock
}

// Fields of the journal entry that the VM's own unit writes when it is ready, each a
// number of microseconds since the hypervisor was executed. They are fields, as the
// entry's text is for people, and a guest can print whatever it likes.
const (
	// ReadyField is when READY=1 was sent.
	ReadyField = "MICROVM_READY_USEC"
	// ReportField is when the guest first reported; without one it did not.
	ReportField = "MICROVM_REPORT_USEC"
)

// Entry is one entry of the journal by the VM's own unit.
type Entry struct {
	At   Clock
	Text string
	// Ready and Report are what ReadyField and ReportField say; 0 where the entry does
	// not have them.
	Ready, Report time.Duration
}

// Micros returns the time that a field of the journal holds, or 0 where it holds none.
func Micros(field string) time.Duration {
	n, err := strconv.ParseInt(field, 10, 64)
	if err != nil || n < 0 || n > maxMicros {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// maxMicros is longer than any start, and as nanoseconds still an int64.
const maxMicros = 1e12

// Start is what is known of a start.
type Start struct {
	// Helpers are the units that the VM's own waited for.
	Helpers []Unit
	// VM is the VM's own unit, Executed when its main process was started.
	VM       Unit
	Executed Clock
	// Restarted says that systemd started the VM anew by itself, without its
	// helpers.
	Restarted bool
	Log       []Entry
}

// Phase is one part of a start.
type Phase struct {
	Name string
	// What it is, for people.
	What string
	// Began counts from the beginning of the start.
	Began, Took time.Duration
}

// Timeline is a start in its parts.
type Timeline struct {
	Phases []Phase
	// Total is the time from the beginning to READY=1.
	Total time.Duration
}

// Longest is the phase that took longest.
func (t Timeline) Longest() Phase {
	if len(t.Phases) == 0 {
		return Phase{}
	}
	return slices.MaxFunc(t.Phases, func(a, b Phase) int { return int(a.Took - b.Took) })
}

// adjoining is how long before the start the installation of a VM may have
// ended to be a part of it.
const adjoining = time.Second

// Of takes a start apart. The VM has to have become ready.
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

// waitedFor are the helpers that belong to this start, in their order.
func waitedFor(helpers []Unit, began Clock) []Unit {
	out := slices.DeleteFunc(slices.Clone(helpers), func(u Unit) bool {
		return u.Began == 0 || u.Active < u.Began || u.Active > began+adjoining
	})
	slices.SortStableFunc(out, func(a, b Unit) int { return int(a.Began - b.Began) })
	// From the last to the first: each has to adjoin what came after.
	first := began
	for i := len(out) - 1; i >= 0; i-- {
		if out[i].Active < first-adjoining {
			return out[i+1:]
		}
		first = min(first, out[i].Began)
	}
	return out
}

// within is at where it lies between two others; else it is 0.
func within(at, from, to Clock) Clock {
	if at < from || at > to {
		return 0
	}
	return at
}

// marks are the moments that the log tells of; 0 where it does not.
type marks struct{ hypervisor, kernel, report Clock }

// kernelLine is a line of the guest's kernel, with its own clock, which starts with it.
var kernelLine = regexp.MustCompile(`^\[ *([0-9]+\.[0-9]+)\] `)

// readLog finds the marks. The last entry that has the fields counts: it is written
// when READY=1 is sent, and the log is read until then.
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
