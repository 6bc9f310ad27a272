package virtiofsd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

func ownerOf(t *testing.T, path string) (uid uint32, mode uint32) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Mode & 0o7777
}

func TestADirectoryIsMadeBeneathWithoutLinks(t *testing.T) {
	need.Root(t)
	root, outside := t.TempDir(), t.TempDir()
	always := func(string) bool { return true }
	old := unix.Umask(0o077)
	err := errors.Join(MakeDir(root, "a/b/c", hypervisorID, hypervisorID, always), MakeDir(root, "top", hypervisorID, hypervisorID, always))
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][2]uint32{"a": {0, 0o755}, "a/b": {0, 0o755}, "a/b/c": {hypervisorID, 0o775}, "top": {hypervisorID, 0o775}} {
		if uid, mode := ownerOf(t, filepath.Join(root, path)); uid != want[0] || mode != want[1] {
			t.Errorf("%s is user %d's, %04o, want %d, %04o", path, uid, mode, want[0], want[1])
		}
	}
	// What is there stays as it is.
	if err := errors.Join(os.Chmod(filepath.Join(root, "top"), 0o700), MakeDir(root, "top", 0, 0, always)); err != nil {
		t.Fatal(err)
	}
	if uid, mode := ownerOf(t, filepath.Join(root, "top")); uid != hypervisorID || mode != 0o700 {
		t.Errorf("it was given to user %d, %04o", uid, mode)
	}
	asHypervisor(t, outside, root+"/link")
	if err := os.WriteFile(root+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"link", "link/x", "file", "file/x", "../x", "a/../../x"} {
		if err := MakeDir(root, path, hypervisorID, hypervisorID, always); err == nil {
			t.Errorf("%s was made", path)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made outside: %v, %v", left, err)
	}
	err = MakeDir(root, "unmounted/x", hypervisorID, hypervisorID, func(path string) bool { return path != root+"/unmounted/x" })
	if _, there := os.Lstat(root + "/unmounted"); err != nil || there == nil {
		t.Errorf("made where nothing is mounted: %v", err)
	}
}

func TestOnlySocketsAndFilesThatWereLeftAreRemoved(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(root+"/dir", 0o700), os.Mkdir(root+"/sub", 0o700), os.Symlink(outside, root+"/way"), os.Symlink(outside+"/kept", root+"/link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{root + "/supervisord.pid", outside + "/kept", root + "/kept"} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: root + "/sub/fs.sock"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	names := []string{"supervisord.pid", "sub/fs.sock", "sub/fs.sock.pid", "dir", "link", "way/kept", "../" + filepath.Base(outside) + "/kept", "none/x"}
	err = RemoveLeft(root, names)
	for path, want := range map[string]bool{"supervisord.pid": false, "sub/fs.sock": false, "sub": true, "dir": true, "link": true, "kept": true, "way/kept": true} {
		if _, err := os.Lstat(filepath.Join(root, path)); (err == nil) != want {
			t.Errorf("%s: %v, want it there %v", path, err, want)
		}
	}
	if err == nil {
		t.Error("a name that leads out was taken")
	}
	if err := RemoveLeft(root+"/none", names); err != nil {
		t.Errorf("of a VM that is gone: %v", err)
	}
}
