package programs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/statedir"
	"microvm/internal/wait"
)

// TestWhatIsTriedAgain: every failure, unless a retry can never help.
func TestWhatIsTriedAgain(t *testing.T) {
	host := statedir.Host{StateDir: t.TempDir()}
	installed, absent := statedir.VM{Host: host, Name: "web"}, statedir.VM{Host: host, Name: "typo"}
	for _, err := range []error{os.Mkdir(installed.Dir(), 0o755), os.Symlink("/late/disk/package", filepath.Join(installed.Dir(), "current"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	gone := &fs.PathError{Op: "open", Path: "/late/disk/package", Err: unix.ENOENT}
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"a package on a disk that is not mounted": {installed.PackageError(gone), exit.CodeFailed},
		"a package on a server that is down":      {installed.PackageError(fmt.Errorf("read: %w", unix.ESTALE)), exit.CodeFailed},
		"a VM that was never installed":           {absent.PackageError(gone), exit.CodeConfig},
		"a package that makes no sense":           {installed.PackageError(errors.New("unexpected end of JSON input")), exit.CodeConfig},
		"a package that others can change":        {installed.PackageError(&runner.UntrustedError{Path: "/p", Reason: "others can write"}), exit.CodeConfig},
		"nothing":                                 {installed.PackageError(nil), exit.CodeOK},
		"what a person can mend":                  {exit.Retry(fmt.Errorf("volume: %w", exit.Config(errors.New("no image")))), exit.CodeFailed},
		"a wait that was ended by a signal":       {exit.Interrupted(context.Canceled), exit.CodeInterrupted},
		"a wait that was in vain":                 {fmt.Errorf("interface: %w", wait.ErrNotThere), exit.CodeFailed},
	} {
		if got := exit.Code(c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", name, got, c.want)
		}
	}
}

func TestAParentThatDoesNotComeIsNamedWithWhatHelps(t *testing.T) {
	p := &wait.Patience{Limit: 100 * time.Millisecond}
	err := awaitParents(context.Background(), p, []hypervisor.Macvtap{{ID: "vm-a", Link: "never0"}})
	for _, want := range []string{`interface "never0" not found`, `macvtap "vm-a"`, "\nhint: ", wait.Variable} {
		if err == nil || !strings.Contains(exit.Text(err), want) {
			t.Errorf("%v has no %q", err, want)
		}
	}
}

// TestPCIDevicesAreWaitedForWithoutTheLock: VMs that do not wait need it.
func TestPCIDevicesAreWaitedForWithoutTheLock(t *testing.T) {
	host := statedir.Host{RuntimeDir: t.TempDir()}
	waited := make(chan error, 1)
	p := &wait.Patience{Limit: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		// There is no such domain on any machine.
		waited <- awaitDevices(ctx, p, []hypervisor.PCI{{Address: "fffffffe:00:00.0"}, {Address: "nonsense"}})
	}()
	time.Sleep(50 * time.Millisecond)
	locked := make(chan error, 1)
	go func() { locked <- withPCILock(host, func() error { return nil }) }()
	select {
	case err := <-locked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the lock is held by one that waits")
	}
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("the wait ended with %v", err)
	}
	p = &wait.Patience{Limit: 10 * time.Millisecond}
	if err := awaitDevices(t.Context(), p, []hypervisor.PCI{{Address: "fffffffe:00:00.0"}}); err != nil {
		t.Errorf("a device that does not come is refused with all that is wrong, not here: %v", err)
	}
}

func TestASignalEndsAWait(t *testing.T) {
	var stderr bytes.Buffer
	time.AfterFunc(200*time.Millisecond, func() { _ = unix.Kill(os.Getpid(), unix.SIGTERM) })
	began := time.Now()
	err := waiting("microvm-test", "web", &stderr, func(ctx context.Context, p *wait.Patience) error {
		return awaitParents(ctx, p, []hypervisor.Macvtap{{ID: "vm-a", Link: "never0"}})
	})
	if exit.Code(err) != exit.CodeInterrupted || time.Since(began) > 20*time.Second {
		t.Errorf("%v, exit code %d, after %s", err, exit.Code(err), time.Since(began))
	}
}
