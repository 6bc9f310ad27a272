package safepath

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestADeviceNodeIsGivenAndTakenBack(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.sh("ln -s device inside/to-device; mknod inside/block b 1 0")
	for name, want := range map[string]error{"file": ErrNotDevice, "sub": ErrNotDevice, "pipe": ErrNotDevice, "socket": ErrNotDevice, "block": ErrNotDevice,
		"to-device": ErrNotDevice, "to-outside/file": ErrNotDevice, "missing": unix.ENOENT} {
		inTime(t, name, func() {
			closes(t, func() {
				_, _, err := OpenNode(w.inside + "/" + name)
				mustBe(t, name, err, want)
			})
		})
	}
	fd, before, err := OpenNode(w.inside + "/device")
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	// After the first line the name is that of another file.
	w.sh("mv inside/file inside/device")
	for _, as := range []As{{0o660, attacker, 7}, {0o660, attacker, 7}, {0o600, attacker + 1, 0}, {before.Mode & 0o7777, int(before.Uid), int(before.Gid)}} {
		if err := GiveNode(fd, as); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || int(st.Uid) != as.UID || int(st.Gid) != as.GID || st.Mode&0o7777 != as.Mode {
			t.Errorf("%+v: it is %o of %d:%d, %v", as, st.Mode, st.Uid, st.Gid, err)
		}
	}
	if got := fileID(t, w.inside+"/device"); got == (ID{}) {
		t.Error("the file that has its name is gone")
	}
	mustBe(t, "no descriptor", GiveNode(-1, As{}), unix.EBADF)
	asUser(t, attacker, func() {
		mustBe(t, "without the right to", GiveNode(fd, As{0o600, attacker, attacker}), unix.EPERM)
	})
}
