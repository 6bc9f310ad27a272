package safepath

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

func TestOnlyWhatIsMeantIsRemoved(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.sh("mkdir -p inside/full/x inside/empty")
	defer w.untouched()()
	kinds := map[string]uint32{"file": unix.S_IFREG, "hard": unix.S_IFREG, "socket": unix.S_IFSOCK, "pipe": unix.S_IFIFO, "device": unix.S_IFCHR,
		"to-outside": unix.S_IFLNK, "to-absolute": unix.S_IFLNK, "empty": unix.S_IFDIR, "full": unix.S_IFDIR}
	for name, kind := range kinds {
		for _, other := range []uint32{unix.S_IFREG, unix.S_IFSOCK, unix.S_IFDIR} {
			if other != kind {
				mustBe(t, name, RemoveKind(w.dir, name, other), nil)
			}
		}
		if _, err := os.Lstat(w.inside + "/" + name); err != nil {
			t.Errorf("%s: of another kind, and removed: %v", name, err)
		}
		mustBe(t, name, RemoveIfSame(w.dir, name, kind, ID{}), nil)
		mustBe(t, name, RemoveKind(w.dir, name, kind), nil)
		if _, err := os.Lstat(w.inside + "/" + name); os.IsNotExist(err) != (name != "full") {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	id := fileID(t, w.inside+"/sub/file")
	mustBe(t, "the same number of another kind", RemoveIfSame(w.dir, "sub/file", unix.S_IFSOCK, id), nil)
	if _, err := os.Lstat(w.inside + "/sub/file"); err != nil {
		t.Error(err)
	}
	mustBe(t, "the same", RemoveIfSame(w.dir, "sub/file", unix.S_IFREG, id), nil)
	if _, err := os.Lstat(w.inside + "/sub/file"); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
	mustBe(t, "again", RemoveIfSame(w.dir, "sub/file", unix.S_IFREG, id), nil)
}

func TestARemovalFollowsNothing(t *testing.T) {
	w := newWorld(t)
	w.fill()
	defer w.untouched()()
	for name, want := range map[string]error{
		"to-outside/file": unix.ELOOP, "to-absolute/file": unix.ELOOP, "to-inside/file": unix.ELOOP, "loop/file": unix.ELOOP, "to-proc/x": unix.ELOOP,
		"../outside/file": unix.EXDEV, "sub/../../outside/file": unix.EXDEV, "/etc/passwd": unix.EXDEV, "file/x": unix.ENOTDIR, "missing/x": nil, "missing": nil,
		long: unix.ENAMETOOLONG, long + "/x": unix.ENAMETOOLONG,
	} {
		closes(t, func() {
			mustBe(t, name, RemoveKind(w.dir, name, unix.S_IFREG), want)
			mustBe(t, name, RemoveIfSame(w.dir, name, unix.S_IFREG, fileID(t, w.outside+"/file")), want)
		})
	}
	for _, path := range []string{"/sub/file", "/file"} {
		if _, err := os.Lstat(w.inside + path); err != nil {
			t.Error(err)
		}
	}
}

// TestOthersCannotMakeARemovalTakeWhatIsRoots: files of other users in a sticky
// directory stay.
func TestARemovalHasTheCallersRights(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	w.sh("chmod 1777 inside")
	asUser(t, attacker, func() {
		mustBe(t, "root's file", RemoveKind(w.dir, "file", unix.S_IFREG), unix.EPERM)
		mustBe(t, "root's tree", RemoveAll(w.dir, "file"), unix.EPERM)
	})
}

func TestATreeIsRemovedAndNothingElse(t *testing.T) {
	w := newWorld(t)
	w.fill()
	defer w.untouched()()
	w.sh("cd inside; mkdir tree; cp -a to-outside to-absolute to-inside loop pipe device hard tree; mkdir tree/many; cd tree/many; seq 3000 | xargs touch; cd ..; i=0; while [ $i -lt 600 ]; do mkdir -p d/" + strings.Repeat("n", 50) + "; cd -P d; i=$((i+1)); done; touch -- '-rf' '" + "new\nline'")
	closes(t, func() { mustBe(t, "tree", RemoveAll(w.dir, "tree"), nil) })
	if _, err := os.Lstat(w.inside + "/tree"); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
	for _, name := range []string{"to-outside", "pipe", "file", "missing"} {
		mustBe(t, name, RemoveAll(w.dir, name), nil)
	}
	if _, err := os.Stat(w.inside + "/sub/file"); err != nil {
		t.Error(err)
	}
}

// TestATreeThatIsFilledMeanwhileIsRemoved once it is no longer filled.
func TestATreeThatIsFilledMeanwhileLeadsNowhere(t *testing.T) {
	w := newWorld(t)
	w.sh("mkdir -p inside/tree/sub; ln -s ../../outside inside/tree/link")
	defer w.untouched()()
	tree := w.inside + "/tree/"
	w.while(func() {
		_ = os.Mkdir(tree+"sub", 0o755)
		if fd, err := OpenBeneath(w.dir, "tree/sub/f", unix.O_CREAT|unix.O_WRONLY); err == nil {
			Close(fd)
		}
		_ = os.Symlink("../../outside", tree+"link")
		_ = unix.Renameat2(unix.AT_FDCWD, tree+"sub", unix.AT_FDCWD, tree+"link", unix.RENAME_EXCHANGE)
	}, func() {
		forAWhile(func() {
			_ = RemoveAll(w.dir, "tree")
			_ = os.Mkdir(w.inside+"/tree", 0o755)
		})
	})
	mustBe(t, "at last", RemoveAll(w.dir, "tree"), nil)
}

func TestWhatAnEarlierRunLeftIsRemovedByItsKind(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, path := range []string{dir + "/stale", dir + "/kept", outside + "/theirs"} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+"/directory", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := RemoveStale(dir, unix.S_IFREG, "absent", "stale", "directory", "link"); err != nil {
		t.Error(err)
	}
	for path, there := range map[string]bool{dir + "/stale": false, dir + "/kept": true, dir + "/directory": true, dir + "/link": true} {
		if _, err := os.Lstat(path); (err == nil) != there {
			t.Errorf("%s: %v, want it there: %v", path, err, there)
		}
	}
	if err := RemoveStale(dir, unix.S_IFREG, "link/theirs"); err == nil || !strings.HasPrefix(err.Error(), "remove stale link/theirs: ") {
		t.Errorf("a file behind a link: %v", err)
	}
	if _, err := os.Lstat(outside + "/theirs"); err != nil {
		t.Error(err)
	}
	if err := RemoveStale(dir+"/absent", unix.S_IFREG, "x"); err == nil || !strings.HasPrefix(err.Error(), "open "+dir+"/absent: ") {
		t.Errorf("beneath nothing: %v", err)
	}
}
