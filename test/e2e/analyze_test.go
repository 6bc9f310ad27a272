package e2e

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestAnalyzeSaysWhereTheTimeOfAStartWent(t *testing.T) {
	in(t, "container")
	name := install(t, spec("timed", func(s map[string]any) {
		s["interfaces"] = []any{tap("vm-timed", 1)}
	}))
	want(t, 1, []string{"timed is inactive", "microvm status timed"}, "analyze", name)
	want(t, 2, []string{"microvm: a VM name or --blame is required\nmicrovm: hint: see: microvm analyze --help"}, "analyze")
	want(t, 0, nil, "start", name)
	t.Logf("\n%s", want(t, 0, []string{"set-booted", "tap-interfaces", "run-wrapper", "hypervisor until READY", "READY after", "█"}, "analyze", name))
	var got struct {
		Seconds float64
		Phases  []struct {
			Name                  string
			BeganSeconds, Seconds float64
		}
	}
	if err := json.Unmarshal([]byte(want(t, 0, nil, "analyze", name, "--json")), &got); err != nil {
		t.Fatal(err)
	}
	last := got.Phases[len(got.Phases)-1]
	if end := last.BeganSeconds + last.Seconds; end < got.Seconds-1e-6 || end > got.Seconds+1e-6 || got.Seconds > 60 {
		t.Errorf("the last phase ends after %f s, the start took %f s", end, got.Seconds)
	}
	for i, p := range got.Phases {
		if p.Seconds < 0 || i > 0 && p.BeganSeconds < got.Phases[i-1].BeganSeconds {
			t.Errorf("phase %+v is out of order", p)
		}
	}
	file := t.TempDir() + "/start.svg"
	want(t, 0, nil, "analyze", name, "--svg", file)
	data, err := os.ReadFile(file)
	if err != nil || xml.Unmarshal(data, new(struct{})) != nil || !strings.Contains(string(data), "tap-interfaces") {
		t.Errorf("the drawing is %v\n%s", err, data)
	}
	if out := want(t, 0, []string{"READY AFTER", "LONGEST"}, "analyze", "--blame"); !regexp.MustCompile(`(?m)^[0-9.]+ m?s +timed +[a-z].*, [0-9.]+ m?s$`).MatchString(out) {
		t.Errorf("the blame is\n%s", out)
	}
}
