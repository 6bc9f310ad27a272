package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	if err == nil || !strings.Contains(err.Error(), "microvm start web") || len(failed) > 0 {
		t.Errorf("%v, %v", failed, err)
	}
}
