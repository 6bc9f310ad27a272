package statedir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// reloads counts how often systemd is reloaded.
func reloads(n *int) func(context.Context) error {
	return func(context.Context) error { *n++; return nil }
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestARollbackGoesBackAndASecondOneForth(t *testing.T) {
	h, vm := installed(t)
	if err := vm.Rollback(context.Background(), nil); !errors.Is(err, ErrNoOld) {
		t.Errorf("with nothing before: %v", err)
	}
	first, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, reloads(&told)); err != nil {
		t.Fatal(err)
	}
	second, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	link := h.UnitDir + "/microvm@web.service.d/50-helpers.conf"
	for i, want := range []string{first, second, first} {
		if err := vm.Rollback(context.Background(), reloads(&told)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(vm.Dir(), "current")); err != nil || got != want {
			t.Errorf("after %d rollbacks current is %s (%v), want %s", i+1, got, err, want)
		}
		if exists(link) != (want == second) {
			t.Errorf("after %d rollbacks the drop-in for the tap's helper is there: %v", i+1, exists(link))
		}
	}
	if told != 4 {
		t.Errorf("systemd was reloaded %d times, want 4", told)
	}
}

func TestANewVMMayNotBeThereAlready(t *testing.T) {
	h, vm := installed(t)
	before, err := os.Readlink(filepath.Join(vm.Dir(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{Flake: "x", New: true}, nil); !errors.Is(err, ErrExists) {
		t.Errorf("got %v", err)
	}
	if got, err := os.Readlink(filepath.Join(vm.Dir(), "current")); err != nil || got != before || exists(filepath.Join(vm.Dir(), "flake")) {
		t.Errorf("the VM that was there was changed: %s (%v)", got, err)
	}
}

func TestARemovalLeavesNothingAndFollowsNoLink(t *testing.T) {
	h, vm := installed(t)
	h.GCRoots = filepath.Dir(h.StateDir) + "/gcroots"
	if err := os.Mkdir(h.GCRoots, 0o755); err != nil {
		t.Fatal(err)
	}
	vm.Host = h
	told := 0
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, reloads(&told)); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(filepath.Dir(h.StateDir), "precious")
	if err := errors.Join(os.Mkdir(precious, 0o755), os.WriteFile(precious+"/file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := as(t, vm.Dir(), "mkdir d && ln -s "+precious+" d/link && ln -s "+precious+" link && chmod 0 d"); err != nil {
		t.Fatal(err)
	}
	if err := vm.Remove(context.Background(), reloads(&told)); err != nil {
		t.Fatal(err)
	}
	if !exists(precious + "/file") {
		t.Error("the removal followed a link out of the directory")
	}
	for _, path := range []string{vm.Dir(), h.UnitDir + "/microvm@web.service.d", h.GCRoots + "/microvm/web", h.GCRoots + "/microvm/booted-web", h.GCRoots + "/microvm/old-web"} {
		if exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
	if told != 2 {
		t.Errorf("systemd was reloaded %d times, want 2", told)
	}
}

func TestARemovalThatKeepsDataKeepsWhatIsNotRoots(t *testing.T) {
	_, vm := installed(t)
	if err := os.WriteFile(filepath.Join(vm.Dir(), "data.img"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	told := 0
	if err := vm.RemoveKeepingData(context.Background(), reloads(&told)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(vm.Dir())
	if err != nil || len(entries) != 1 || entries[0].Name() != "data.img" || vm.Installed() {
		t.Errorf("kept %v (%v)", entries, err)
	}
}

func TestWhatARemovalLeftWhenItWasKilledIsCollected(t *testing.T) {
	h, _ := installed(t)
	left := filepath.Join(h.StateDir, tempPrefix+"gone-123")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CollectGarbage(); err != nil || exists(left) {
		t.Errorf("it is still there (%v)", err)
	}
}

func TestAnOriginThatTheHypervisorWroteIsNobodysWord(t *testing.T) {
	_, vm := installed(t)
	if from, err := vm.Origin(); err != nil || from.Spec != "/etc/web.json" {
		t.Errorf("got %+v (%v)", from, err)
	}
	for what, script := range map[string]string{
		"a file":  "echo git+https://evil.example.org > flake",
		"a link":  "ln -s /etc/hostname flake",
		"a pipe":  "mkfifo flake",
		"a link2": "ln -s /var toplevel",
	} {
		if err := as(t, vm.Dir(), "rm -f flake toplevel; "+script); err != nil {
			t.Fatal(err)
		}
		if from, err := vm.Origin(); err != nil || from != (Origin{Spec: "/etc/web.json"}) {
			t.Errorf("%s: got %+v (%v)", what, from, err)
		}
	}
}
