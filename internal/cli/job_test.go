package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
)

func TestAJobThatIsInterruptedBeforeItBeganIsNoSuccess(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	vm := statedir.VM{Host: statedir.Host{StateDir: filepath.Join(h.dir, "state")}, Name: "web"}
	if err := errors.Join(os.Mkdir(vm.Dir(), 0o755), os.Symlink("/p", filepath.Join(vm.Dir(), "current"))); err != nil {
		t.Fatal(err)
	}
	failed, err := runJobs(ctx, &h.stdout, &h.stderr, systemd.Start, []statedir.VM{vm})
	if err == nil || err.Error() != "interrupted before systemd was asked" || exit.Hint(err) != "run: microvm start web" || len(failed) > 0 {
		t.Errorf("%v, %v", failed, err)
	}
}
