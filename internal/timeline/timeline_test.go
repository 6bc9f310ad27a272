package timeline

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// guestStart is a start of a VM whose guest reports, at 100 s of the host's
// clock.
func guestStart() Start {
	at := func(d time.Duration) Clock { return 100*time.Second + d }
	return Start{
		Helpers: []Unit{
			{"tap-interfaces", at(10 * ms), at(14 * ms)},
			{"install", 50 * time.Second, 51 * time.Second}, // long ago
			{"set-booted", at(0), at(8 * ms)},
			{"virtiofsd", 0, 0},                           // never
			{"pci-devices", at(9 * ms), 40 * time.Second}, // of another start
		},
		VM:       Unit{"microvm", at(15 * ms), at(5015 * ms)},
		Executed: at(16 * ms),
		Log: []Entry{
			{At: at(17 * ms), Text: "microvm-run-wrapper: creating volume data.img, 64 MiB, ext4"},
			{At: at(215 * ms), Text: "[    0.000000] Linux version 6.12"},
			{At: at(700 * ms), Text: "[    0.412345] something else"},
			{At: at(800 * ms), Text: "microvm-run-wrapper: ready 1.000 s after the hypervisor was started"}, // a guest that lies
			{At: at(5015 * ms), Text: "ready", Ready: 4950 * ms, Report: 2000 * ms},
		},
	}
}

func TestStartIsTakenApart(t *testing.T) {
	tl := Of(guestStart())
	var got []string
	for _, p := range tl.Phases {
		got = append(got, fmt.Sprintf("%s %s %d+%d", p.Name, p.What, p.Began/ms, p.Took/ms))
	}
	want := []string{
		"set-booted  0+8",
		"tap-interfaces  10+4",
		"run-wrapper volumes, descriptors 15+50",
		"hypervisor until the kernel's first line 65+150",
		"kernel until the guest's first report 215+1850",
		"guest until READY 2065+2950",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if tl.Total != 5015*ms || tl.Longest().Name != "guest" {
		t.Errorf("total %s, longest %q", tl.Total, tl.Longest().Name)
	}
}

func TestPhasesLieInTheStartWhateverTheLogSays(t *testing.T) {
	for name, log := range map[string][]Entry{
		"nothing":       nil,
		"no kernel":     {{At: 105015 * ms, Ready: 4950 * ms, Report: 2000 * ms}},
		"by the VMM":    {{At: 105015 * ms, Ready: 4950 * ms}},
		"huge":          {{At: 105015 * ms, Ready: Micros("1000000000000")}},
		"kernel later":  {{At: 105014 * ms, Text: "[ 9999.000000] x"}, {At: 105015 * ms, Ready: 4950 * ms}},
		"report before": {{At: 105015 * ms, Ready: 1000 * ms, Report: 2000 * ms}},
	} {
		s := guestStart()
		s.Log = log
		tl := Of(s)
		if len(tl.Phases) < 3 {
			t.Errorf("%s: %v", name, tl.Phases)
		}
		for _, p := range tl.Phases {
			if p.Began < 0 || p.Took < 0 || p.Began+p.Took > tl.Total {
				t.Errorf("%s: %+v lies outside of %s", name, p, tl.Total)
			}
		}
		if last := tl.Phases[len(tl.Phases)-1]; last.Began+last.Took != tl.Total || last.What != "until READY" {
			t.Errorf("%s: the last phase is %+v", name, last)
		}
	}
}

func TestRestartHasNoHelpers(t *testing.T) {
	s := guestStart()
	s.Restarted, s.Executed = true, 103*time.Second
	tl := Of(s)
	if tl.Total != 2015*ms || tl.Phases[0].Name != "hypervisor" {
		t.Errorf("%+v", tl)
	}
}

func TestChartKeepsToTheTerminal(t *testing.T) {
	for _, columns := range []int{80, 132} {
		var out strings.Builder
		if err := Of(guestStart()).Chart(&out, columns); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > columns {
				t.Errorf("%d columns: %q has %d", columns, line, n)
			}
		}
		if !strings.Contains(out.String(), "2.95 s") || !strings.Contains(out.String(), "READY after") {
			t.Errorf("the chart is\n%s", &out)
		}
	}
}

func TestDrawingIsXMLAndSaysAll(t *testing.T) {
	var out strings.Builder
	if err := Of(guestStart()).SVG(&out, `a<b&"c"`); err != nil {
		t.Fatal(err)
	}
	bars := 0
	for d := xml.NewDecoder(strings.NewReader(out.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 1+6 || !strings.Contains(out.String(), "a&lt;b&amp;") || !strings.Contains(out.String(), "kernel until the guest&#39;s first report") {
		t.Errorf("%d bars in\n%s", bars, &out)
	}
}

func TestFieldsThatHoldNoTimeAreNone(t *testing.T) {
	for field, want := range map[string]time.Duration{
		"4950000": 4950 * ms, "0": 0, "": 0, "-5": 0, "4.95": 0, "soon": 0, "99999999999999999999": 0, "1000000000001": 0,
		"1000000000000": 1000000 * time.Second,
	} {
		if got := Micros(field); got != want {
			t.Errorf("%q: %s, want %s", field, got, want)
		}
	}
}
