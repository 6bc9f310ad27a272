package safepath

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

// all are the policies by name.
var all = map[string]Policy{"package": ForPackage, "within": WithinPackage, "program": ForProgram, "jail": ForJail, "state": ForStateDir, "targets": ForTargets, "record": ForRecord, "new": ForNew}

// TestWhomEachPolicyTrusts lists for each hostile file system the policies that accept a
// path. All others must refuse it.
func TestWhomEachPolicyTrusts(t *testing.T) {
	need.Root(t)
	const (
		everyone = "package within program jail state targets record new"
		// Policies that check more than links.
		none    = ""
		bylinks = "state targets"
	)
	for _, c := range []struct {
		title, make, path, lets string
	}{
		{"root's alone", "mkdir -p a/b; touch a/b/f", "a/b/f", everyone},
		{"root's, by links", "mkdir -p a/b; touch a/b/f; ln -s a l; ln -s ../a/b a/m", "l/m/f", everyone},
		{"a first directory of others", "mkdir -p a/b; touch a/b/f; chown 4321 a", "a/b/f", bylinks},
		{"a last directory of others", "mkdir -p a/b; touch a/b/f; chown 4321 a/b", "a/b/f", bylinks},
		{"a file of others", "mkdir -p a/b; touch a/b/f; chown 4321 a/b/f", "a/b/f", "jail state targets new"},
		{"a file of others, by a link", "mkdir a; touch a/f; chown 4321 a/f; ln -s f a/l", "a/l", "jail state targets new"},
		{"a file of the group's", "mkdir a; touch a/f; chmod 664 a/f", "a/f", "jail state targets new"},
		{"a file of everybody's", "mkdir a; touch a/f; chmod 646 a/f", "a/f", "jail state targets new"},
		{"a directory of the group's", "mkdir -p a/b; touch a/b/f; chmod 775 a", "a/b/f", bylinks},
		{"a directory of everybody's", "mkdir -p a/b; touch a/b/f; chmod 757 a/b", "a/b/f", bylinks},
		{"a sticky directory of everybody's", "mkdir -p a/b; touch a/b/f; chmod 1777 a", "a/b/f", "package program record new state targets"},
		{"a sticky directory of the group's", "mkdir -p a/b; touch a/b/f; chmod 1775 a/b", "a/b/f", "package program record new state targets"},
		{"a sticky directory of others", "mkdir -p a/b; touch a/b/f; chmod 1777 a; chown 4321 a", "a/b/f", bylinks},
		{"others' in a sticky directory", "mkdir -p a/b; touch a/b/f; chmod 1777 a; chown 4321 a/b", "a/b/f", bylinks},
		{"a sticky directory behind a link", "mkdir -p a/b; touch a/b/f; chmod 1777 a; ln -s a l", "l/b/f", bylinks},
		{"a link of root's in a sticky directory", "mkdir -p a b; touch b/f; chmod 1777 a; ln -s ../b a/l", "a/l/f", "package program record new"},
		{"a link of others", "mkdir -p a; touch a/f; ln -s a l; chown -h 4321 l", "l/f", none},
		{"a link of others in the last place", "mkdir -p a; touch a/f; ln -s f a/l; chown -h 4321 a/l", "a/l", none},
		{"a link in a directory of others", "mkdir -p a b; touch b/f; ln -s ../b a/l; chown 4321 a", "a/l/f", none},
		{"a link in a directory of everybody's", "mkdir -p a b; touch b/f; ln -s ../b a/l; chmod 777 a", "a/l/f", none},
		{"a link of root's through one of others", "mkdir -p a; touch a/f; ln -s a m; chown -h 4321 m; ln -s m l", "l/f", none},
		{"through others' and up again", "mkdir -p a b; touch f; chown 4321 a", "a/../f", bylinks},
		{"through others' and further", "mkdir -p a/b; touch f; chown 4321 a", "a/b/../../f", bylinks},
		{"up at the end", "mkdir -p a/b; chmod 777 a", "a/b/..", bylinks},
		{"a directory", "mkdir -p a/b", "a/b", everyone},
		{"a directory of everybody's at the end", "mkdir -p a/b; chmod 1777 a/b", "a/b", "jail state targets new"},
		{"a hard link", "mkdir a; touch f; ln f a/f", "a/f", everyone},
		{"a pipe of root's", "mkdir a; mkfifo a/f; chmod 600 a/f", "a/f", everyone},
		{"a newline", "mkdir 'a\nb'; touch 'a\nb/f'", "a\nb/f", everyone},
		{"a newline of others", "mkdir 'a\nb'; touch 'a\nb/f'; chown 4321 'a\nb'", "a\nb/f", bylinks},
		{"nothing", "mkdir a", "a/f/g", "jail state targets new"},
		{"nothing in a directory of others", "mkdir a; chown 4321 a", "a/f", bylinks},
		{"nothing in a directory of everybody's", "mkdir a; chmod 777 a", "a/f", bylinks},
		{"nothing in a sticky directory", "mkdir a; chmod 1777 a", "a/f", "state targets new"},
		{"nothing, by a link of others", "ln -s a l; chown -h 4321 l", "l", none},
		{"a loop", "ln -s l l", "l", none},
		{"a file in the way", "touch f", "f/g", none},
		{"the kernel's own link", "ln -s /proc/self/cwd l", "l/f", none},
	} {
		t.Run(c.title, func(t *testing.T) {
			w := newWorld(t)
			w.sh("rm -r inside/*; cd inside; " + c.make)
			for name, policy := range all {
				inTime(t, name, func() {
					closes(t, func() {
						// The directories above are those of a test: root owns them, below a sticky one.
						p, err := WalkTrustedBeneath(w.dir, c.path, policy)
						if lets := strings.Contains(c.lets, name); (err == nil) != lets {
							t.Errorf("%s: let through %v, want %v: %v", name, err == nil, lets, err)
						}
						var u *UntrustedError
						if errors.As(err, &u) && (u.Error() == "" || u.Path == "") {
							t.Errorf("%s: the error is empty: %+v", name, u)
						}
						if err == nil {
							p.Close()
						}
					})
				})
			}
		})
	}
}

// TestTheWholePathCounts, from the root directory on.
func TestTheWholePathCounts(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	for _, step := range []string{"", "chown 4321 inside", "chown 0 inside; chmod 777 inside", "chmod 755 inside; chown 4321 inside/sub"} {
		w.sh("true; " + step)
		p, err := WalkTrusted(w.inside+"/sub/file", ForProgram)
		if (err == nil) != (step == "") {
			t.Errorf("%s: %v", step, err)
		}
		if err == nil {
			p.Close()
		}
	}
	_, err := WalkTrusted("relative", ForProgram)
	mustBe(t, "relative", err, unix.EINVAL)
}

func TestAnUntrustedFileIsNamedWithItsReason(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	w.sh("cd inside; chown 4321 sub; touch open; chmod 666 open; mkdir all; chmod 777 all; touch all/f; touch theirs; chown 4321 theirs")
	for name, want := range map[string]string{
		"sub/file": w.inside + "/sub: directory is owned by uid 4321, not by root",
		"all/f":    w.inside + "/all: directory is writable by non-root users (mode 0777)",
		"open":     w.inside + "/open: writable by non-root users (mode 0666)",
		"theirs":   w.inside + "/theirs: owned by uid 4321, not by root",
	} {
		if _, err := WalkTrusted(w.inside+"/"+name, ForProgram); err == nil || err.Error() != want &&
			err.Error() != strings.Replace(want, "directory is ", "", 1) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

// TestTheCallerIsTrustedWhereThatIsSaid, and no other user.
func TestTheCallerIsTrustedWhereThatIsSaid(t *testing.T) {
	w := newWorld(t)
	w.sh("chmod 755 inside; cd inside; mkdir mine; touch mine/f; ln -s f mine/l; chown -hR 4321 mine; mkdir other; ln -s f other/l; chown -h 4322 other/l; chmod 755 .")
	asUser(t, attacker, func() {
		for path, want := range map[string]bool{"mine/l": true, "mine/f": true, "other/l": false} {
			p, err := WalkTrusted(w.inside+"/"+path, ForStateDir)
			if (err == nil) != want {
				t.Errorf("%s: %v", path, err)
			}
			if err == nil {
				p.Close()
			}
			if _, err := WalkTrusted(w.inside+"/"+path, ForProgram); err == nil {
				t.Errorf("%s: a program of the caller's was trusted", path)
			}
		}
	})
	// Root is not the one who owns them.
	if _, err := WalkTrusted(w.inside+"/mine/l", ForStateDir); err == nil {
		t.Error("root trusts what is another's")
	}
}

// TestStoresArePassedBehindLinks: root trusts the builders that write in them.
func TestStoresArePassedBehindLinks(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	w.sh("cd inside; mkdir -p store/abc; chmod 1775 store; touch store/abc/f; ln -s store/abc/f l; ln -s store/abc dir")
	for _, policy := range []string{"package", "program"} {
		for _, path := range []string{"l", "dir/f"} {
			if _, err := WalkTrusted(w.inside+"/"+path, all[policy]); err == nil {
				t.Errorf("%s: a sticky directory behind a link was let through", policy)
			}
			old := stores
			stores = append(stores, w.inside+"/store")
			p, err := WalkTrusted(w.inside+"/"+path, all[policy])
			stores = old
			if err != nil {
				t.Errorf("%s: %v", policy, err)
				continue
			}
			p.Close()
		}
	}
}

// TestAnAccessListCounts: the group bits are its mask, acl(5).
func TestAnAccessListCounts(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	// u::rwx, u:4321:rwx, g::r-x, m::rwx, o::r-x: linux/posix_acl_xattr.h, little-endian.
	list := []byte{2, 0, 0, 0}
	for _, e := range [][4]uint32{{1, 7}, {2, 7, attacker}, {4, 5}, {0x10, 7}, {0x20, 5}} {
		id := e[2]
		if e[0] != 2 {
			id = 0xffffffff
		}
		list = append(list, byte(e[0]), 0, byte(e[1]), 0, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	}
	if err := unix.Setxattr(w.inside+"/sub", "system.posix_acl_access", list, 0); err != nil {
		t.Skipf("no access lists here: %v", err)
	}
	var u *UntrustedError
	if _, err := WalkTrusted(w.inside+"/sub/file", ForProgram); !errors.As(err, &u) || u.Path != w.inside+"/sub" {
		t.Errorf("%v", err)
	}
}

// TestAVanishingComponentIsMissing renames a component back and forth.
func TestAVanishingComponentIsMissing(t *testing.T) {
	need.Root(t)
	w := newWorld(t)
	there, missing := 0, 0
	w.while(func() {
		_ = os.Rename(w.inside+"/sub", w.inside+"/away")
		_ = os.Rename(w.inside+"/away", w.inside+"/sub")
	}, func() {
		forAWhile(func() {
			p, err := WalkTrusted(w.inside+"/sub/file", ForProgram)
			if err != nil {
				mustBe(t, "vanished", err, unix.ENOENT)
				missing++
				return
			}
			there++
			p.Close()
		}, &there, &missing)
	})
	if there == 0 || missing == 0 {
		t.Errorf("%d there, %d missing: nothing was shown", there, missing)
	}
}
