package safepath

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

func TestNothingBeneathADirectoryIsFollowed(t *testing.T) {
	w := newWorld(t)
	w.fill()
	defer w.untouched()()
	for _, h := range hostile {
		inTime(t, h.name, func() {
			closes(t, func() {
				fd, err := OpenDirBeneath(w.dir, h.name)
				mustBe(t, "directory "+h.name, err, h.dir)
				if err == nil {
					Close(fd)
				}
				f, err := OpenFile(w.dir, h.name)
				mustBe(t, "file "+h.name, err, h.file)
				if err != nil {
					return
				}
				text, err := io.ReadAll(f)
				if err != nil || string(text) != "ours\n" {
					t.Errorf("%s: read %q, %v", h.name, text, err)
				}
				_ = f.Close()
			})
		})
	}
}

func TestADirectoryItselfIsNoLink(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for name, want := range map[string]error{"to-outside": unix.ENOTDIR, "to-inside": unix.ENOTDIR, "file": unix.ENOTDIR, "pipe": unix.ENOTDIR, "missing": unix.ENOENT, "sub": nil, ".": nil} {
		fd, err := OpenDir(w.inside + "/" + name)
		mustBe(t, name, err, want)
		if err == nil {
			Close(fd)
		}
	}
	for path, want := range map[string]error{w.inside + "/to-outside/sub": unix.ELOOP, w.inside + "/to-outside": unix.ELOOP, w.outside + "/sub": nil, w.outside + "/file": unix.ENOTDIR} {
		fd, err := OpenPlain(path)
		mustBe(t, path, err, want)
		if err == nil {
			Close(fd)
		}
	}
}

func TestLinksThatStayInsideMayBeFollowed(t *testing.T) {
	w := newWorld(t)
	w.fill()
	defer w.untouched()()
	for name, want := range map[string]error{
		"to-inside/file": nil, "sub/../file": nil,
		"to-outside/file": unix.EXDEV, "to-absolute/file": unix.EXDEV, "to-proc/cwd": unix.EXDEV,
		"../outside/file": unix.EXDEV, "/etc/passwd": unix.EXDEV, "loop": unix.ELOOP, "to-nothing": unix.ENOENT,
	} {
		fd, err := OpenInside(w.dir, name, unix.O_RDONLY)
		mustBe(t, name, err, want)
		if err == nil {
			Close(fd)
		}
	}
	// Links of the kernel whose text does not lead out.
	proc, err := OpenDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer Close(proc)
	for _, name := range []string{"self/fd/0", "self/cwd", "self/exe"} {
		if _, err := OpenInside(proc, name, unix.O_PATH); err == nil {
			t.Errorf("/proc/%s was followed", name)
		}
		_, err := OpenBeneath(proc, name, unix.O_PATH)
		mustBe(t, name, err, unix.ELOOP)
	}
}

// TestAReopenedFileIsTheOneOfTheHandle although the name has another file by then.
func TestAReopenedFileIsTheOneOfTheHandle(t *testing.T) {
	w := newWorld(t)
	fd, err := OpenBeneath(w.dir, "file", unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	w.sh("mv outside/file inside/file")
	f, err := ReopenFile(fd, "file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if text, err := io.ReadAll(f); err != nil || string(text) != "ours\n" {
		t.Errorf("read %q, %v", text, err)
	}
	if _, err := ReopenFile(-1, ""); err == nil {
		t.Error("no file was opened")
	}
	if _, err := IDOf(-1); err == nil {
		t.Error("no file has an identity")
	}
}

func TestMkdirMakesWhatItSays(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	w.sh("chmod 2777 inside; chgrp 4321 inside")
	for umask := range map[int]bool{0: true, 0o077: true, 0o777: true} {
		old := unix.Umask(umask)
		fd, err := MkdirBeneath(w.dir, "a/./b//c", As{0o750, attacker, 0})
		unix.Umask(old)
		if err != nil {
			t.Fatalf("umask %o: %v", umask, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		Close(fd)
		if st.Mode&0o7777 != 0o750 || st.Uid != attacker || st.Gid != 0 {
			t.Errorf("umask %o: it is %o of %d:%d", umask, st.Mode, st.Uid, st.Gid)
		}
		if _, err := os.Stat(w.inside + "/a/b/c"); err != nil {
			t.Error(err)
		}
		w.sh("rm -r inside/a")
	}
	mustBe(t, "one that is there", Mkdir(w.dir, "sub", As{0o700, 0, 0}), unix.EEXIST)
	mustBe(t, "one that cannot be", Mkdir(w.dir, "no/such", As{0o700, 0, 0}), unix.ENOENT)
	if _, err := MkdirBeneath(-1, "x", As{}); err == nil {
		t.Error("made in no directory")
	}
}

func TestMkdirFollowsNothing(t *testing.T) {
	w := newWorld(t)
	w.fill()
	defer w.untouched()()
	for _, h := range hostile {
		// A path of any length can be made, one component at a time.
		if h.dir == nil || h.dir == unix.ENOENT || len(h.name) > unix.PathMax-2 {
			continue
		}
		closes(t, func() {
			_, err := MkdirBeneath(w.dir, h.name, As{0o755, 0, 0})
			// MkdirBeneath cleans the path first.
			var at *ComponentError
			if !errors.Is(err, h.dir) || !errors.As(err, &at) || at.Error() == "" {
				t.Errorf("%q: %v, want %v", h.name, err, h.dir)
			}
		})
	}
}

// TestMkdirAsAnybody runs without privileges.
func TestMkdirAsAnybody(t *testing.T) {
	w := newWorld(t)
	w.sh("chmod 777 inside")
	asUser(t, attacker, func() {
		fd, err := MkdirBeneath(w.dir, "mine/too", As{0o775, -1, -1})
		if err != nil {
			t.Error(err)
			return
		}
		defer Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Uid != attacker || st.Mode&0o7777 != 0o775 {
			t.Errorf("%o of %d, %v", st.Mode, st.Uid, err)
		}
		_, err = MkdirBeneath(w.dir, "given", As{0o775, 0, 0})
		mustBe(t, "given to root", err, unix.EPERM)
	})
}

func TestHandlesAreChanged(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	w.sh("ln -s ../outside/file inside/link")
	defer w.untouched()()
	fd, err := OpenBeneath(w.dir, "file", unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	// A link has the file's name now.
	w.sh("mv inside/link inside/file")
	if err := errors.Join(Chmod(fd, 0o640), Chown(fd, attacker, -1)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&0o7777 != 0o640 || st.Uid != attacker || st.Gid != 0 {
		t.Errorf("%o of %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
	_, err = OpenBeneath(w.dir, "file", unix.O_PATH)
	mustBe(t, "the link that has its name", err, unix.ELOOP)
}
