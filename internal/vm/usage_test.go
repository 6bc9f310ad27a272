package vm

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestWhatAUnitUsesIsReadFromItsControlGroup(t *testing.T) {
	root := t.TempDir()
	plain := filepath.Join(root, "system.slice/system-microvm.slice/microvm@web.service")
	moved := filepath.Join(root, "vms.slice/microvm@db.service")
	for dir, files := range map[string]map[string]string{
		plain: {"cgroup.procs": strconv.Itoa(os.Getpid()) + "\n", "cpu.stat": "usage_usec 2500000\nuser_usec 1\n", "memory.current": "4096\n"},
		moved: {"cgroup.procs": strconv.Itoa(os.Getpid()) + "\n"},
		filepath.Join(filepath.Dir(plain), "microvm@empty.service"): {"cgroup.procs": ""},
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	groups := cgroups{root: root}
	u, ok := groups.usage("microvm@web.service")
	if !ok || u.memory != 4096 || u.cpu != 2500*time.Millisecond {
		t.Errorf("got %+v, %v", u, ok)
	}
	if age := time.Since(u.since); age < 0 || age > time.Hour {
		t.Errorf("this process was started %s ago", age)
	}
	// Without controllers, and in another slice: usage is that of the processes.
	u, ok = groups.usage("microvm@db.service")
	if !ok || u.memory < 1<<20 || u.memory > 1<<32 {
		t.Errorf("got %+v, %v", u, ok)
	}
	for _, unit := range []string{"microvm@empty.service", "microvm@none.service"} {
		if u, ok := groups.usage(unit); ok {
			t.Errorf("%s uses %+v", unit, u)
		}
	}
}

func TestAProcessWithAnyNameIsRead(t *testing.T) {
	if _, ok := processStat("self"); !ok {
		t.Error("this process has no times")
	}
	if _, ok := processStat("0"); ok {
		t.Error("process 0 has times")
	}
	name := []byte(") R 1 (")
	if err := errors.Join(os.WriteFile("/proc/self/comm", name, 0o600)); err != nil {
		t.Skip("the name of this process cannot be set: ", err)
	}
	if u, ok := processStat("self"); !ok || u.memory == 0 {
		t.Errorf("with a bad name: %+v, %v", u, ok)
	}
}
