package statedir

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/rootlock"
)

// within fails the test if do takes longer than limit.
func within(t *testing.T, limit time.Duration, do func() error) error {
	t.Helper()
	end := make(chan error, 1)
	go func() { end <- do() }()
	select {
	case err := <-end:
		return err
	case <-time.After(limit):
		t.Fatalf("it was not done in %s", limit)
		return nil
	}
}

// running starts a script as the attacker, which ends with the test.
func running(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: attacker, Gid: 65534}, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func TestAnInstallationRemovesOnlyFilesOfRootsFromAVMsDirectory(t *testing.T) {
	h, vm := installed(t)
	mine := filepath.Join(vm.Dir(), tempPrefix+"current-1")
	starting := filepath.Join(vm.Dir(), tempPrefix+"booted-1")
	if err := errors.Join(os.Symlink("/nowhere", mine), os.Symlink("/nowhere", starting)); err != nil {
		t.Fatal(err)
	}
	// A very deep tree, the temporary file of a volume that a start creates, and trees
	// under each trusted name that is free.
	if err := as(t, vm.Dir(), "mkdir .microvm-new-x; echo x > .microvm-new-data.img; for d in old booted flake toplevel; do mkdir -p $d/d; done"); err != nil {
		t.Fatal(err)
	}
	running(t, vm.Dir()+"/.microvm-new-x", "i=0; while :; do : > $i; i=$((i+1)); done")
	eventually(t, "the attack", func() bool { return exists(filepath.Join(vm.Dir(), ".microvm-new-x/100")) })
	if err := within(t, 30*time.Second, func() error {
		return vm.Install(context.Background(), build(t, h, "b", tapped), Origin{Flake: "x"}, nil)
	}); err != nil {
		t.Fatal(err)
	}
	if exists(mine) {
		t.Error("what a crash of ours left is still there")
	}
	if !exists(starting) {
		t.Error("the temporary file of a start was removed")
	}
	for _, name := range []string{".microvm-new-x/100", ".microvm-new-data.img"} {
		if !exists(filepath.Join(vm.Dir(), name)) {
			t.Errorf("the hypervisor's %s was removed", name)
		}
	}
	if err := vm.SetBooted(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(vm.Dir(), "flake")); err != nil || string(got) != "x\n" {
		t.Errorf("the copy of the origin is %q (%v)", got, err)
	}
	if _, err := os.Readlink(filepath.Join(vm.Dir(), "old")); err != nil {
		t.Error(err)
	}
}

// deepen creates nested directories, each with a file.
func deepen(t *testing.T, path string, levels int) {
	t.Helper()
	at, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for range levels {
		if err != nil {
			break
		}
		next := -1
		if err = errors.Join(unix.Mkdirat(at, "d", 0o700), unix.Mkdirat(at, "empty", 0), unix.Symlinkat("/etc", at, "link")); err == nil {
			next, err = unix.Openat(at, "d", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		}
		_ = unix.Close(at)
		at = next
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(at)
}

func TestARemovalEndsHoweverDeepTheTreeIs(t *testing.T) {
	_, vm := installed(t)
	deepen(t, vm.Dir(), 1000)
	if err := as(t, vm.Dir(), "mkdir many && cd many && seq -f %g/x 1500 | xargs mkdir -p"); err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	// Fewer descriptors than levels: a hypervisor can create any number of levels.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	err := within(t, 10*time.Minute, func() error { return vm.Remove(context.Background(), reloads(new(int))) })
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(vm.Host.StateDir + "/.microvm-new-*"); len(left) != 0 || vm.Exists() {
		t.Errorf("left: %v", left)
	}
}

func TestWhatCannotBeRemovedHindersNoOtherVM(t *testing.T) {
	h, vm := installed(t)
	other, err := h.VM("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Install(context.Background(), build(t, h, "o", strings.Replace(plain, "web", "other", 1)), Origin{}, nil); err != nil {
		t.Fatal(err)
	}
	mounted := filepath.Join(other.Dir(), "home/mnt")
	if err := os.MkdirAll(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mounted+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = other.Remove(context.Background(), reloads(new(int)))
	left, _ := filepath.Glob(h.StateDir + "/.microvm-new-*/home/mnt")
	for _, at := range left {
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	if len(left) != 1 || !exists(left[0]+"/file") || other.Exists() {
		t.Fatalf("left: %v", left)
	}
	if err == nil || !strings.Contains(exit.Text(err), "\nhint: unmount what is mounted in it, then run: microvm gc") {
		t.Errorf("the removal of a VM with a mount in it: %v", err)
	}
	if err := vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, nil); err != nil {
		t.Error(err)
	}
	if err := vm.Remove(context.Background(), reloads(new(int))); err != nil {
		t.Error(err)
	}
	removed, err := h.CollectGarbage()
	if err == nil || len(removed) != 3 {
		t.Errorf("collected %v (%v), want three packages and an error", removed, err)
	}
	if err := unix.Unmount(left[0], 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CollectGarbage(); err != nil || exists(filepath.Dir(filepath.Dir(left[0]))) {
		t.Errorf("it is still there (%v)", err)
	}
}

func TestNobodyButRootCanHoldTheLock(t *testing.T) {
	h, vm := installed(t)
	running(t, h.StateDir, "exec flock -x . sh -c 'echo > "+vm.Dir()+"/held; exec sleep 600'")
	eventually(t, "the lock", func() bool { return exists(filepath.Join(vm.Dir(), "held")) })
	if err := as(t, h.StateDir, "flock -n .lock true"); err == nil {
		t.Error("another user can open the lock")
	}
	if err := within(t, 30*time.Second, func() error {
		_, err := h.CollectGarbage()
		return errors.Join(err, vm.Install(context.Background(), build(t, h, "b", tapped), Origin{}, nil),
			vm.Rollback(context.Background(), reloads(new(int))), vm.Remove(context.Background(), reloads(new(int))))
	}); err != nil {
		t.Error(err)
	}
	if names, err := h.Names(); err != nil || len(names) != 0 {
		t.Errorf("VMs: %v (%v)", names, err)
	}
}

func TestALockThatOthersCanOpenIsRefused(t *testing.T) {
	h, _ := installed(t)
	lock := filepath.Join(h.StateDir, rootlock.Name)
	for what, harm := range map[string]func() error{
		"that everybody can open": func() error { return os.Chmod(lock, 0o644) },
		"of another user":         func() error { return os.Chown(lock, attacker, 0) },
		"that is a link":          func() error { return errors.Join(os.Remove(lock), os.Symlink("/etc/hostname", lock)) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if _, err := h.CollectGarbage(); err == nil || !strings.Contains(err.Error(), lock) {
			t.Errorf("a lock %s: %v", what, err)
		}
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
		if _, err := h.CollectGarbage(); err != nil {
			t.Fatal(err)
		}
	}
}
