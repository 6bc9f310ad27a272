package safepath

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAWalkGoesWhereTheKernelWould(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.sh("cd inside; ln -s to-inside/../sub/. chain; ln -s ///etc///. etc; ln -s ../../../../../../../../../.. top; mkdir -p sub/a; ln -s ../../../outside/sub sub/a/up; mkdir \"sub/$(printf 'a\\nb')\"; ln -s \"sub/$(printf 'a\\nb')\" odd")
	for _, name := range []string{"", "/", "sub", "sub/", "file", "to-outside", "to-outside/sub/file", "to-absolute/file", "to-inside/../file", "chain/file", "etc/passwd", "top/etc", "top/../etc", "sub/a/up/file", "odd", "pipe", "device", "socket", "hard"} {
		path := w.inside + "/" + name
		inTime(t, path, func() {
			closes(t, func() {
				p, err := Walk(path, Rules{})
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				defer p.Close()
				var st unix.Stat_t
				if err := unix.Stat(path, &st); err != nil || idOf(&st) != idOf(&p.Stat) {
					t.Errorf("%s led to %s; %v", path, p.Path, err)
				}
				if fileID(t, p.Path) != idOf(&p.Stat) {
					t.Errorf("%s led to %s, which has a link", path, p.Path)
				}
				var held unix.Stat_t
				if err := unix.Fstat(p.FD, &held); err != nil || held.Ino != st.Ino {
					t.Errorf("%s: the handle is another's: %v", path, err)
				}
			})
		})
	}
}

func TestWhatAWalkDoesNotFollow(t *testing.T) {
	w := newWorld(t)
	w.fill()
	// 40 links are followed, and no more.
	w.sh("cd inside; ln -s file l1; i=1; while [ $i -le 40 ]; do ln -s l$i l$((i+1)); i=$((i+1)); done")
	w.sh("cd inside; d=deep; i=0; mkdir deep; cd deep; while [ $i -lt 520 ]; do mkdir d; cd -P ./d; i=$((i+1)); done")
	for path, want := range map[string]error{
		"relative":                                     unix.EINVAL,
		w.inside + "/loop":                             unix.ELOOP,
		w.inside + "/l40":                              nil,
		w.inside + "/l41":                              unix.ELOOP,
		w.inside + "/to-nothing":                       unix.ENOENT,
		w.inside + "/missing/x":                        unix.ENOENT,
		w.inside + "/file/x":                           unix.ENOTDIR,
		w.inside + "/pipe/x":                           unix.ENOTDIR,
		w.inside + "/device/..":                        unix.ENOTDIR,
		w.inside + "/" + long:                          unix.ENAMETOOLONG,
		w.inside + "/a\x00b":                           unix.EINVAL,
		w.inside + "/to-proc":                          unix.ELOOP, // /proc/self is one itself
		"/proc/self/cwd":                               unix.ELOOP,
		"/proc/1/root/etc":                             unix.ELOOP,
		fmt.Sprintf("/proc/%d/fd/0", os.Getpid()):      unix.ELOOP,
		w.inside + "/deep" + strings.Repeat("/d", 400): nil,
		w.inside + "/deep" + strings.Repeat("/d", 515): unix.ENAMETOOLONG,
	} {
		inTime(t, path, func() {
			closes(t, func() {
				p, err := Walk(path, Rules{})
				mustBe(t, path, err, want)
				if err == nil {
					p.Close()
				}
			})
		})
	}
}

func TestAWalkBeneathStaysThere(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.sh("cd inside; ln -s ../file sub/up; ln -s ../../outside/file sub/out")
	for name, want := range map[string]error{
		"": nil, ".": nil, "file": nil, "to-inside/file": nil, "sub/up": nil, "sub/../file": nil,
		"..": unix.EXDEV, "sub/../..": unix.EXDEV, "/etc": unix.EXDEV, "to-outside": unix.EXDEV, "to-absolute": unix.EXDEV,
		"to-proc": unix.EXDEV, "sub/out": unix.EXDEV, "loop": unix.ELOOP, "missing": unix.ENOENT, long: unix.ENAMETOOLONG,
	} {
		closes(t, func() {
			p, err := WalkBeneath(w.dir, name, Rules{})
			mustBe(t, name, err, want)
			if err == nil {
				p.Close()
			}
		})
	}
	if _, err := WalkBeneath(-1, "x", Rules{}); err == nil {
		t.Error("walked beneath nothing")
	}
}

// TestTheRulesAreAskedAtEachStep: in order, and the walk returns their errors.
func TestTheRulesAreAskedAtEachStep(t *testing.T) {
	w := newWorld(t)
	w.sh("ln -s sub/../sub inside/link")
	var asked []string
	no := errors.New("no")
	refuse := ""
	ask := func(what string) error {
		asked = append(asked, what)
		if what == refuse {
			return no
		}
		return nil
	}
	rules := Rules{
		Entry: func(s *Step) error {
			kind := "file"
			if s.IsLink() {
				kind = "link"
			} else if s.IsDir() {
				kind = "dir"
			}
			return ask(fmt.Sprintf("%s %s %d %v", kind, s.Path(), s.Links, s.Rest))
		},
		Up:      func(s *Step) error { return ask("up from " + s.DirPath) },
		Missing: func(s *Step) (int, error) { return -1, ask("no " + s.Path()) },
	}
	const path = "link/file"
	want := []string{"link link 0 [file]", "dir sub 1 [.. sub file]", "up from sub", "dir sub 1 [file]", "file sub/file 1 []"}
	p, err := WalkBeneath(w.dir, path, rules)
	if err != nil || !slices.Equal(asked, want) {
		t.Fatalf("asked %q, want %q; %v", asked, want, err)
	}
	p.Close()
	var i int
	for i, refuse = range want {
		asked = nil
		closes(t, func() { _, err = WalkBeneath(w.dir, path, rules) })
		if !errors.Is(err, no) || asked[len(asked)-1] != refuse {
			t.Errorf("step %d refused: %v, asked %q", i, err, asked)
		}
	}
	refuse = "no missing"
	_, err = WalkBeneath(w.dir, "missing/x", rules)
	mustBe(t, "missing", err, no)
	refuse = ""
	p, err = WalkBeneath(w.dir, "link/missing/x/../y", rules)
	if err != nil || p.FD != -1 || p.Path != "sub/missing/y" {
		t.Errorf("%+v, %v", p, err)
	}
	p.Close()
	rules.Stop = func(path string) bool { return path == "sub" }
	p, err = WalkBeneath(w.dir, "link/file", rules)
	if err != nil || p.FD != -1 || p.Path != "sub/file" {
		t.Errorf("stopped: %+v, %v", p, err)
	}
}

// TestWhatIsMissingMayBeMade: Entry is called for what Missing returns.
func TestWhatIsMissingMayBeMade(t *testing.T) {
	w := newWorld(t)
	var entered []string
	rules := Rules{
		Entry: func(s *Step) error { entered = append(entered, s.Path()); return nil },
		Missing: func(s *Step) (int, error) {
			if err := Mkdir(s.Dir, s.Name, As{0o755, -1, -1}); err != nil {
				return -1, err
			}
			return OpenDirBeneath(s.Dir, s.Name)
		},
	}
	p, err := WalkBeneath(w.dir, "sub/new/er", rules)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if want := []string{"sub", "sub/new", "sub/new/er"}; !slices.Equal(entered, want) {
		t.Errorf("entered %q, want %q", entered, want)
	}
	if _, err := os.Stat(w.inside + "/sub/new/er"); err != nil {
		t.Error(err)
	}
}

// TestAWalkCrossesMounts as the kernel would, since only root creates them.
func TestAWalkCrossesMounts(t *testing.T) {
	w := newWorld(t)
	w.fill()
	mount(t, w.inside+"/sub")
	w.sh("mkdir inside/sub/x; ln -s ../../outside inside/sub/out; ln -s ../file inside/sub/up; ln -s .. inside/sub/x/up")
	for name, want := range map[string]string{"sub/x": w.inside + "/sub/x", "sub/up": w.inside + "/file", "sub/x/up/up": w.inside + "/file", "sub/out/file": w.outside + "/file"} {
		p, err := Walk(w.inside+"/"+name, Rules{})
		if err != nil || p.Path != want {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		p.Close()
	}
	fd, err := OpenDirBeneath(w.dir, "sub/x")
	if err != nil {
		t.Fatal(err)
	}
	Close(fd)
	_, err = OpenBeneath(w.dir, "sub/out", unix.O_PATH)
	mustBe(t, "a link in it", err, unix.ELOOP)
	mustBe(t, "removal", RemoveAll(w.dir, "sub"), unix.EBUSY)
}

// mount mounts an empty file system.
func mount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}
