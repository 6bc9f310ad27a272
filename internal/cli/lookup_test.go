package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/statedir"
)

func TestNamesAreLookedUpOnceEachAndTheMissingAreKeptApart(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"db", "web"} {
		if err := os.Mkdir(filepath.Join(h.dir, "state", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := &Command{Host: statedir.Host{StateDir: filepath.Join(h.dir, "state")}}
	s, err := c.vms([]string{"web", "no", "db", "web", "no", "nor"})
	if err != nil {
		t.Fatal(err)
	}
	var found, missing []string
	for _, v := range s.vms {
		found = append(found, v.Name)
	}
	for _, m := range s.missing {
		missing = append(missing, m.name)
	}
	if !slices.Equal(found, []string{"web", "db"}) || !slices.Equal(missing, []string{"no", "nor"}) {
		t.Errorf("found %q, missing %q", found, missing)
	}
	if _, err := c.vms([]string{"web", "../x"}); !exit.IsUsage(err) {
		t.Errorf("a name that is none: %v", err)
	}
	// What is missing comes first, and counts.
	broken := errors.New("broken")
	var several severalError
	if err := s.outcome([]error{nil, broken}); !errors.As(err, &several) || len(several.errs) != 3 || several.of != 4 || several.errs[2] != broken || several.code() != exitPartly {
		t.Errorf("%#v", err)
	}
	if err := (selection{vms: s.vms}).outcome([]error{nil, nil}); err != nil {
		t.Errorf("all went well: %v", err)
	}
	if err := (selection{missing: s.missing[:1]}).outcome(nil); codeOf(err) != exitNoVM {
		t.Errorf("one that is missing: %v", err)
	}
}

func TestAnUpdateReportsTheVMsThatThereAreAndThoseThatThereAreNot(t *testing.T) {
	h := rootsHost(t)
	h.write(t, "web.json", "")
	h.says(t, 0, []string{"created in"}, "create", "web", "-s", "web.json")
	h.says(t, exitPartly, []string{`VM "no" not found`}, "update", "--json", "no", "web")
	var results []updated
	if err := json.Unmarshal(h.stdout.Bytes(), &results); err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || results[0].Name != "web" || results[0].Error != "" || results[1].Name != "no" || results[1].Error == "" {
		t.Errorf("%+v", results)
	}
	h.says(t, exitNoVM, []string{`VM "no" not found`}, "update", "no")
	h.says(t, 0, []string{"removed"}, "rm", "--yes", "web")
}
