package start

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"microvm/internal/hypervisor"
)

func TestWhatAHypervisorLeavesIsRemovedAndNothingElse(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	listen := func(path string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
	}
	within := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(within("a.sock.lock"), nil, 0o600),
		os.WriteFile(within("file-for-dir"), nil, 0o600),
		os.WriteFile(within("vm.json"), nil, 0o600),
		os.WriteFile(within(".key"), nil, 0o600),
		os.WriteFile(within(".key.new"), nil, 0o600),
		os.WriteFile(filepath.Join(other, "kept"), nil, 0o600),
		os.Symlink(filepath.Join(other, "kept"), within("link.lock")),
		os.Symlink(other, within("link-dir")),
		os.Mkdir(within("empty"), 0o700),
		os.Mkdir(within("full"), 0o700),
		os.Mkdir(within("dir.lock"), 0o700),
		os.WriteFile(within("full/mine"), nil, 0o600),
		os.Mkdir(within("sub"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	listen(within("a.sock"))
	listen(within(muxPath("v.sock", muxPort)))
	listen(within("socket.lock"))
	listen(within("sub/a.sock"))
	plan := &hypervisor.Plan{
		StaleSockets: []string{"a.sock", "sub/a.sock", "absent.sock"},
		StaleFiles:   []string{"a.sock.lock", "link.lock", "socket.lock", "dir.lock", "absent.lock"},
		Generated:    []hypervisor.GeneratedFile{{Path: "vm.json"}},
		Readiness:    hypervisor.Readiness{VsockSocket: "v.sock"},
		Shutdown:     hypervisor.Shutdown{SSH: &hypervisor.SSH{Key: ".key"}},
		StaleDirs:    []string{"empty", "full", "sub", "file-for-dir", "link-dir", "absent"},
	}
	if err := CleanUp(dir, plan); err != nil {
		t.Error(err)
	}
	want := []string{"dir.lock", "file-for-dir", "full", "link-dir", "link.lock", "socket.lock"}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	if got := names(t, other); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("outside there is %q", got)
	}
	plan.StaleFiles = []string{"link-dir/kept"}
	if err := CleanUp(dir, plan); err == nil || len(names(t, other)) != 1 {
		t.Errorf("a file behind a link: %v", err)
	}
}
