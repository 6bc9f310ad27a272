package safepath

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

// Each of these tests replaces files in a loop while it calls the attacked function in a
// loop. It fails unless both happened.

func TestASwapNeverLeadsAnOpenOut(t *testing.T) {
	w := newWorld(t)
	w.sh("ln -s ../outside inside/link")
	opened, refused := 0, 0
	w.swapped("sub", "link", func() {
		forAWhile(func() {
			f, err := OpenFile(w.dir, "sub/file")
			if err != nil {
				mustBe(t, "refused", err, unix.ELOOP)
				refused++
				return
			}
			opened++
			if text, err := io.ReadAll(f); err != nil || string(text) != "ours\n" {
				t.Errorf("read %q, %v", text, err)
			}
			_ = f.Close()
		}, &opened, &refused)
	})
	if opened == 0 || refused == 0 {
		t.Errorf("%d opened, %d refused: the swap did not happen", opened, refused)
	}
}

// TestRenamesElsewhereHinderNobodyForLong: openat2(2) returns EAGAIN for ".." during
// renames. It is tried again, but not forever.
func TestRenamesElsewhereHinderNobodyForLong(t *testing.T) {
	w := newWorld(t)
	w.sh("mkdir -p inside/sub/a/b/c outside/x outside/y")
	opened := 0
	w.while(func() { _ = os.Rename(w.outside+"/x", w.outside+"/y"); _ = os.Rename(w.outside+"/y", w.outside+"/x") }, func() {
		forAWhile(func() {
			fd, err := OpenDirBeneath(w.dir, "sub/a/b/c/../../../../sub/a/../a/b/../../..")
			if err == nil {
				opened++
				Close(fd)
			} else if err != unix.EAGAIN {
				t.Error(err)
			}
		}, &opened)
	})
	if opened == 0 {
		t.Error("it was never opened")
	}
}

// TestASwapNeverLeadsADirectoryOut replaces the parent while directories are created in
// it.
func TestASwapNeverLeadsADirectoryOut(t *testing.T) {
	w := newWorld(t)
	w.sh("ln -s ../outside/sub inside/link")
	defer w.untouched()()
	made, refused := 0, 0
	w.swapped("sub", "link", func() {
		forAWhile(func() {
			fd, err := MkdirBeneath(w.dir, "sub/new", As{0o755, -1, -1})
			if err != nil {
				refused++
				return
			}
			made++
			Close(fd)
			_ = unix.Unlinkat(w.dir, "sub/new", unix.AT_REMOVEDIR)
			_ = unix.Unlinkat(w.dir, "link/new", unix.AT_REMOVEDIR)
		}, &made, &refused)
	})
	if made == 0 || refused == 0 {
		t.Errorf("%d made, %d refused: the swap did not happen", made, refused)
	}
}

// TestWhatIsMadeIsNotExchangedBeforeItChangesHands: a user who may write in the
// directory replaces the new one by another that root owns and that is not empty.
func TestWhatIsMadeIsNotExchangedBeforeItChangesHands(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	// Must not change owner: a directory that root owns, and the target of a link.
	w.sh("mkdir -p inside/prize/in; chmod 700 inside/prize inside/prize/in; ln -s ../outside inside/link")
	prize, err := OpenDirBeneath(w.dir, "prize")
	if err != nil {
		t.Fatal(err)
	}
	defer Close(prize)
	defer w.untouched()()
	made, replaced := 0, 0
	for _, bait := range []string{"prize", "link"} {
		// The name is free at first, so an exchange hits the new directory.
		w.while(func() {
			if unix.Renameat2(w.dir, bait, w.dir, "new", unix.RENAME_EXCHANGE) == nil {
				_ = unix.Renameat2(w.dir, bait, w.dir, "new", unix.RENAME_EXCHANGE)
			}
		}, func() {
			forAWhile(func() {
				switch err := Mkdir(w.dir, "new", As{0o755, attacker, attacker}); {
				case err == nil:
					made++
				default:
					replaced++
				}
				var st unix.Stat_t
				if err := unix.Fstat(prize, &st); err != nil || st.Uid != 0 || st.Mode&0o7777 != 0o700 {
					t.Fatalf("root's directory is %o of %d, %v", st.Mode, st.Uid, err)
				}
				_ = unix.Unlinkat(w.dir, "new", unix.AT_REMOVEDIR)
			}, &made, &replaced)
		})
	}
	if made == 0 || replaced == 0 {
		t.Errorf("%d made, %d replaced: the swap did not happen", made, replaced)
	}
}

func TestASwapNeverLeadsARemovalOut(t *testing.T) {
	w := newWorld(t)
	w.sh("ln -s ../outside inside/link")
	id := fileID(t, w.outside+"/file")
	defer w.untouched()()
	removed := 0
	w.swapped("sub", "link", func() {
		forAWhile(func() {
			_ = RemoveKind(w.dir, "sub/file", unix.S_IFREG)
			_ = RemoveIfSame(w.dir, "sub/file", unix.S_IFREG, id)
			// Created again through a handle that the swap does not affect.
			for _, name := range []string{"sub/file", "link/file"} {
				fd, err := OpenBeneath(w.dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
				if err == nil {
					removed++
					Close(fd)
				}
			}
		}, &removed)
	})
	if removed == 0 {
		t.Error("nothing was removed")
	}
}

func TestASwapNeverLeadsAConnectionOut(t *testing.T) {
	w := newWorld(t)
	theirs := listen(t, w.outside+"/socket", unix.SOCK_STREAM)
	ours := listen(t, w.inside+"/sub/socket", unix.SOCK_STREAM)
	w.sh("ln -s ../outside inside/link")
	connected, refused := 0, 0
	w.swapped("sub", "link", func() {
		forAWhile(func() {
			f, err := ConnectBeneath(t.Context(), w.inside, "sub/socket", unix.SOCK_STREAM)
			if err != nil {
				refused++
				return
			}
			connected++
			_ = f.Close()
			if quiet(t, ours) {
				t.Error("the connection went elsewhere")
			}
		}, &connected, &refused)
	})
	if !quiet(t, theirs) {
		t.Error("it was led out")
	}
	if connected == 0 || refused == 0 {
		t.Errorf("%d connected, %d refused: the swap did not happen", connected, refused)
	}
}

// TestASwapNeverLeadsATrustedWalkToOthers: a user replaces a link that root owns by
// their own, in a directory in which they may write, and replaces the directories.
func TestASwapNeverLeadsATrustedWalkToOthers(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	w.sh("chown -R 4321 outside; ln -s ../outside inside/bad; chown -h 4321 inside/bad; ln -s sub inside/good")
	led, refused := 0, 0
	for _, pair := range [][2]string{{"good", "bad"}, {"sub", "bad"}} {
		w.swapped(pair[0], pair[1], func() {
			forAWhile(func() {
				p, err := WalkTrusted(w.inside+"/"+pair[0]+"/file", ForProgram)
				if err != nil {
					var u *UntrustedError
					if !errors.As(err, &u) && !errors.Is(err, unix.ELOOP) {
						t.Error(err)
					}
					refused++
					return
				}
				led++
				if p.Stat.Uid != 0 || p.Path != w.inside+"/sub/file" && p.Path != w.inside+"/bad/file" {
					t.Errorf("it led to %s of %d", p.Path, p.Stat.Uid)
				}
				p.Close()
			}, &led, &refused)
		})
		if pair[0] == "good" { // either may have either name now
			w.sh("cd inside; rm -f good bad; ln -s ../outside bad; chown -h 4321 bad")
		}
	}
	if led == 0 || refused == 0 {
		t.Errorf("%d led, %d refused: the swap did not happen", led, refused)
	}
}

// TestUpIsWhereTheWalkCameFrom moves the directory before "..".
func TestUpIsWhereTheWalkCameFrom(t *testing.T) {
	w := newWorld(t)
	w.sh("mkdir inside/sub/deep")
	var moved atomic.Bool
	p, err := Walk(w.inside+"/sub/deep/../file", Rules{Up: func(*Step) error {
		moved.Store(true)
		return os.Rename(w.inside+"/sub/deep", w.outside+"/deep")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Path != w.inside+"/sub/file" || fileID(t, p.Path) != idOf(&p.Stat) || !moved.Load() {
		t.Errorf("it led to %s", p.Path)
	}
}

func fileID(t *testing.T, path string) ID {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return idOf(&st)
}
