package start

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
)

// run starts a plan whose hypervisor exits, and returns the content of the file of
// that name.
func runs(t *testing.T, plan *hypervisor.Plan, file string, change ...func(*exec.Cmd)) string {
	t.Helper()
	s := launch(t, pack(t, plan), change...)
	if err := s.exit(); err != nil {
		t.Fatalf("%v: %s", err, s.log())
	}
	data, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		t.Fatalf("%v: %s", err, s.log())
	}
	return string(data)
}

// TestTheStepsOfAStartComeInOrder: preStart comes first, and the later steps see what
// it creates.
func TestTheStepsOfAStartComeInOrder(t *testing.T) {
	there := func(step, path string) string {
		return "if [ -e " + path + " ]; then echo " + step + ": " + path + "; fi >> steps"
	}
	socket := "timeout -s KILL 20 env " + roleQMP + "=1s " + self(t) + " > /dev/null 2>&1 &\nuntil [ -S qmp.sock ]; do sleep 0.01; done"
	plan := &hypervisor.Plan{
		PreStart: strings.Join([]string{
			"echo preStart >> steps", there("preStart", "made.img"), there("preStart", "sub/data.img"), there("preStart", "old.sock"), there("preStart", "generated"),
			"cp base.img copied.img", "mkdir sub", "echo secret > token", "echo '#!/bin/sh' > script.sh", "echo 'exec sh -c \"$2\"' >> script.sh", "chmod +x script.sh", socket,
		}, "\n"),
		Files:        []hypervisor.File{{Role: "credentialFiles.token", Path: "token"}},
		StaleSockets: []string{"old.sock", "qmp.sock"},
		Volumes: []hypervisor.Volume{
			{Image: "made.img", SizeMiB: 1, AutoCreate: true, FSType: "ext4"},
			{Image: "copied.img"},
			{Image: "sub/data.img", SizeMiB: 1, AutoCreate: true, FSType: "ext4"},
		},
		BeforeStart:     "echo beforeStart >> steps\n" + there("beforeStart", "made.img") + "\n" + there("beforeStart", "old.sock") + "\n" + there("beforeStart", "qmp.sock"),
		ExtraArgsScript: "echo extraArgsScript >> steps; " + there("extraArgsScript", "sub/data.img") + "; echo more",
		Generated:       []hypervisor.GeneratedFile{{Path: "generated", Content: "text"}},
		Argv:            []string{"./script.sh", "-c", "echo hypervisor >> steps; " + there("hypervisor", "generated")},
	}
	got := runs(t, plan, "steps", func(c *exec.Cmd) {
		if err := os.WriteFile(filepath.Join(c.Dir, "base.img"), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(c.Dir, "old.sock")}); err != nil {
			t.Fatal(err)
		}
	})
	want := strings.Join([]string{
		"preStart", "preStart: old.sock",
		"beforeStart", "beforeStart: made.img", "beforeStart: qmp.sock",
		"extraArgsScript", "extraArgsScript: sub/data.img",
		"hypervisor", "hypervisor: generated", "",
	}, "\n")
	if got != want {
		t.Errorf("the steps were\n%swant\n%s", got, want)
	}
}

// TestWhatPreStartSetsIsTheHypervisors: the same process continues.
func TestWhatPreStartSetsIsTheHypervisors(t *testing.T) {
	const show = `echo "$SET $(umask) $(ulimit -n) $(ulimit -Hn) $(pwd -P)`
	plan := &hypervisor.Plan{
		// Bash syntax, shell state that is not passed on, and another directory.
		PreStart:        "export SET='a  b'; umask 0027; ulimit -n 77; list=(x y); [[ ${list[1]} == y ]]; cd /; set -- no words",
		ExtraArgsScript: show + `" > script; echo more`,
		Argv:            []string{"/bin/sh", "-c", show + ` $*" > hypervisor; cat script >> hypervisor`, "sh"},
	}
	var dir string
	got := runs(t, plan, "hypervisor", func(c *exec.Cmd) { dir = c.Dir })
	set := fmt.Sprintf("a  b 0027 77 77 %s", dir)
	if want := set + " more\n" + set + "\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestTheMainProcessStaysTheSame, and inherits nothing of the first run.
func TestTheMainProcessStaysTheSame(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seen")
	s := launch(t, pack(t, &hypervisor.Plan{PreStart: "true", Argv: []string{self(t), "-x"}, Env: []string{roleShow + "=" + file}}))
	s.told()
	got := seen(t, file)
	if got.PID != s.cmd.Process.Pid {
		t.Errorf("the hypervisor is process %d, want %d", got.PID, s.cmd.Process.Pid)
	}
	onlyStandard(t, got)
	for fd, target := range got.FDs {
		if target == self(t) {
			t.Errorf("descriptor %s is still %s", fd, target)
		}
	}
	for _, v := range got.Env {
		if strings.HasPrefix(v, "MICROVM_") || strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			t.Errorf("the hypervisor has %s", v)
		}
	}
	gone(t)
}

// TestAnImageThatPreStartRemovesIsMadeAnew at each start.
func TestAnImageThatPreStartRemovesIsMadeAnew(t *testing.T) {
	plan := &hypervisor.Plan{
		PreStart: "rm -f scratch.img",
		Volumes:  []hypervisor.Volume{{Image: "scratch.img", SizeMiB: 1, AutoCreate: true, FSType: "ext4"}},
		Argv:     []string{"/bin/sh", "-c", "tail -c 4 scratch.img | od -An -tx1 > tail; printf mark | dd of=scratch.img bs=1 seek=1048572 conv=notrunc status=none"},
	}
	pkg, dir := pack(t, plan), ""
	for range 2 {
		s := launch(t, pkg, func(c *exec.Cmd) {
			if dir == "" {
				dir = c.Dir
			}
			c.Dir = dir
		})
		if err := s.exit(); err != nil {
			t.Fatalf("%v: %s", err, s.log())
		}
		if got, err := os.ReadFile(filepath.Join(dir, "tail")); err != nil || strings.TrimSpace(string(got)) != "00 00 00 00" {
			t.Errorf("the image ends in %q, %v: it is not a new one", got, err)
		}
	}
}

// TestPreStartsEndIsTheStarts: a failure of preStart ends the start, with its exit code.
func TestPreStartsEndIsTheStarts(t *testing.T) {
	for commands, want := range map[string]int{"exit 7": 7, "false | true": 1, "echo $UNSET_VARIABLE": 1, "if": 2, "exit 0": 0} {
		s := launch(t, pack(t, &hypervisor.Plan{PreStart: commands, Argv: []string{"/bin/sh", "-c", "touch started"}}))
		_ = s.exit()
		if got := s.cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit code %d, want %d: %s", commands, got, want, s.log())
		}
		if commands == "if" { // of which the shell itself tells
			continue
		}
		if !strings.Contains(s.log(), fmt.Sprintf("microvm-run-wrapper: web: preStart: exit status %d\nmicrovm-run-wrapper: web: hint: correct the commands", want)) {
			t.Errorf("%s: the log is %q", commands, s.log())
		}
		if left := names(t, s.dir); len(left) != 0 {
			t.Errorf("%s: it went on: %q", commands, left)
		}
	}
}

// TestALongPreparationIsWaitedFor: the service manager is asked for more time while
// preStart and the package's script run, and not after.
func TestALongPreparationIsWaitedFor(t *testing.T) {
	for name, plan := range map[string]*hypervisor.Plan{
		"preStart":        {PreStart: "sleep 1"},
		"extraArgsScript": {ExtraArgsScript: "sleep 1; echo more"},
	} {
		t.Run(name, func(t *testing.T) {
			plan.Argv = []string{"/bin/sh", "-c", "exec sleep 60"}
			s := launch(t, pack(t, plan), func(c *exec.Cmd) { c.Env = append(c.Env, rolePause+"=100ms") })
			asked := 0
			for got := s.told(); !strings.Contains(got, "READY=1"); got = s.told() {
				if got != extend() {
					t.Errorf("the service manager was told %q", got)
				}
				asked++
			}
			if asked < 3 {
				t.Errorf("it was asked for patience %d times", asked)
			}
			gone(t)
			s.silent(300 * time.Millisecond)
		})
	}
}
