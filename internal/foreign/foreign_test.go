package foreign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

// program writes a shell script of that text that every user can run. If the test
// runs as root, owner owns it.
func program(t *testing.T, text string, owner int) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "microvm-foreign-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "program")
	err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755), os.Chmod(path, 0o755))
	if err == nil && os.Geteuid() == 0 {
		err = errors.Join(os.Chown(path, owner, owner), os.Chown(dir, owner, owner))
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatAProgramStartedDoesNotKeepUs(t *testing.T) {
	for name, text := range map[string]string{
		"it sleeps":                         "sleep 60",
		"its child holds the pipe":          "sleep 60 & echo done; sleep 60",
		"its child left the session":        "setsid sleep 60 & sleep 60",
		"it does not listen to signals":     "trap '' TERM INT HUP; sleep 60; sleep 60",
		"it prints without end":             "while :; do echo word; done",
		"it waits for what nobody types":    "setsid cat <&0 & exec sleep 60",
		"it stops itself":                   "kill -STOP $$; sleep 60",
		"its grandchildren are in sessions": "setsid sh -c 'setsid sleep 60 & sleep 60' & wait",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			cmd := Command{Path: program(t, text, 0), Apart: true, Limit: time.Second / 2}
			_, _, err := cmd.Run(context.Background())
			if took := time.Since(began); took > 40*time.Second {
				t.Errorf("it took %s", took)
			}
			if !errors.Is(err, ErrTimeout) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAProgramThatLeavesOthersBehindHasItsSay(t *testing.T) {
	began := time.Now()
	cmd := Command{Path: program(t, "sleep 77 & setsid sleep 77 & echo said", 0), Apart: true, Limit: time.Minute}
	out, _, err := cmd.Run(context.Background())
	if err != nil || string(out) != "said\n" {
		t.Errorf("%q, %v", out, err)
	}
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
	need.Root(t)
	// pgrep's code is 1 where nothing matches, pgrep(1).
	left, err := exec.Command(need.Program(t, "pgrep"), "-afx", "sleep 77").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("pgrep: %v; these stay: %s", err, left)
	}
}

func TestSlowProgramsAreSaidToBe(t *testing.T) {
	said := make(chan struct{}, 1)
	cmd := Command{Path: program(t, "sleep 1.5", 0), Limit: 20 * time.Second, Slow: func() { said <- struct{}{} }}
	if _, _, err := cmd.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(said) != 1 {
		t.Error("Slow was not called")
	}
	cmd.Path = program(t, ":", 0)
	if _, _, err := cmd.Run(context.Background()); err != nil || len(said) != 1 {
		t.Errorf("Slow was called for a fast program, or: %v", err)
	}
}

func TestRootRunsNothingOfOthersAsRoot(t *testing.T) {
	need.Root(t)
	const eve = 4321
	account := &syscall.Credential{Uid: 1234, Gid: 1234, Groups: []uint32{0}}
	t.Setenv("SECRET_OF_ROOT", "hunter2")
	for _, c := range []struct {
		name    string
		owner   int
		account *syscall.Credential
		uid     int
	}{
		{"a program of another user", eve, account, nobody},
		{"a program of root", 0, account, 1234},
		{"a program of root, and no account", 0, nil, nobody},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := program(t, `echo "$(id -u) $(id -G) $(pwd) ${SECRET_OF_ROOT-none}"; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status`, c.owner)
			cmd := Command{Path: path, As: As(path, c.account), Apart: true, Limit: 10 * time.Second}
			out, log, err := cmd.Run(context.Background())
			want := fmt.Sprintf("%[1]d %[1]d / none\nNoNewPrivs:\t1\nCapEff:\t0000000000000000\n", c.uid)
			if err != nil || string(out) != want {
				t.Errorf("got\n%swant\n%s%v %s", out, want, err, log)
			}
		})
	}
}

func TestAProgramOfOthersSeesNoProcessOfTheHosts(t *testing.T) {
	need.Root(t)
	victim := exec.Command("sleep", "60")
	victim.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = victim.Process.Kill(); _ = victim.Wait() }()
	cmd := Command{Path: program(t, "kill -9 "+strconv.Itoa(victim.Process.Pid)+"; kill -9 -1; echo $$", 4321), As: As("/no", nil), Apart: true, Limit: 10 * time.Second}
	out, _, err := cmd.Run(context.Background())
	if err != nil || string(out) != "1\n" {
		t.Skipf("no namespace of processes here: %q, %v", out, err)
	}
	if err := unix.Kill(victim.Process.Pid, 0); err != nil {
		t.Errorf("the process of another was ended: %v", err)
	}
}

func TestVersionsAreAskedOnceAndFound(t *testing.T) {
	dir := t.TempDir()
	count := filepath.Join(dir, "count")
	if err := errors.Join(os.WriteFile(count, nil, 0o600), os.Chmod(count, 0o666), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"echo cloud-hypervisor v54.0":                     "54.0 <nil>",
		"echo 'QEMU emulator version 7.2.19 (Debian)'":    "7.2 <nil>",
		`test "$1" = -version && echo 'StratoVirt 2.4.0'`: "2.4 <nil>",
		"echo none":  "printed no version",
		"exit 3":     "exit status 3",
		"exit 127\n": "exit status 127",
	} {
		v := &Versions{Find: exec.LookPath}
		path := program(t, text, 0)
		major, minor, err := v.Of(path)
		if got := fmt.Sprintf("%d.%d %v", major, minor, err); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if again, _, _ := v.Of(path); again != major {
			t.Errorf("%s: the program was run again", text)
		}
	}
}

func TestProgramsOfUnitsAreFoundWhateverPathIs(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if err := os.WriteFile(filepath.Join(dir, "sh"), []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := InUnit("sh"); err != nil || strings.HasPrefix(path, dir) {
		t.Errorf("%s, %v", path, err)
	}
	if _, err := InUnit("no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}
