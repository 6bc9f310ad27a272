package statedir

import (
	"context"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSourcesOfSharesAreMadeAtTheInstallation, by 9p and by virtiofs, in the VM's
// directory and elsewhere in the state directory, as microvm.nix has them made by
// systemd-tmpfiles.
func TestSourcesOfSharesAreMadeAtTheInstallation(t *testing.T) {
	h := host(t)
	vm, err := h.VM("web")
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Dir(h.StateDir) + "/outside"
	share := func(tag, proto, source string) string {
		return `{"tag":"` + tag + `","proto":"` + proto + `","source":"` + source + `"}`
	}
	document := func(more string) string {
		return `{"name":"web","arch":"x86_64","kernel":"/k","shares":[` +
			share("a", "9p", "d9") + "," + share("b", "virtiofs", "./dv") + "," + share("c", "9p", vm.Dir()+"/deep/er") + "," +
			share("d", "virtiofs", vm.Dir()+"/abs") + "," + share("e", "9p", h.StateDir+"/shared/x") + "," + share("f", "9p", ".") + "," +
			share("g", "9p", h.StateDir+"/.origin/x") + "," + share("h", "virtiofs", outside) + more + "]}"
	}
	install := func(name, document string) {
		t.Helper()
		if err := vm.Install(context.Background(), build(t, h, name, document), Origin{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	old := unix.Umask(0o077)
	install("a", document(""))
	unix.Umask(old)
	account, err := user.Lookup(h.User)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		uid  int
		mode uint32
	}{
		vm.Dir(): {0, 0o1775}, vm.Dir() + "/d9": {uid, 0o775}, vm.Dir() + "/dv": {uid, 0o775}, vm.Dir() + "/deep": {0, 0o755},
		vm.Dir() + "/deep/er": {uid, 0o775}, vm.Dir() + "/abs": {uid, 0o775}, h.StateDir + "/shared": {0, 0o755}, h.StateDir + "/shared/x": {uid, 0o775},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || int(st.Uid) != want.uid || st.Mode&0o7777 != want.mode {
			t.Errorf("%s is user %d's, %04o (%v), want %+v", path, st.Uid, st.Mode&0o7777, err, want)
		}
	}
	for _, path := range []string{outside, h.StateDir + "/.origin/x"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s was made", path)
		}
	}
	// Files in the way do not make the installation fail; the start refuses them.
	if err := os.Symlink("/etc", vm.Dir()+"/planted"); err != nil {
		t.Fatal(err)
	}
	install("b", document(","+share("i", "9p", "planted/x")))
	if _, err := os.Lstat("/etc/x"); err == nil || filepath.Base(current(t, vm)) == "" {
		t.Error("a link was followed")
	}
}
