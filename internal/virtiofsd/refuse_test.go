package virtiofsd

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
	"microvm/test/need"

	"microvm/internal/exit"
)

// asHypervisor makes a link that belongs to the hypervisor's user.
func asHypervisor(t *testing.T, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(link, hypervisorID, hypervisorID); err != nil {
		t.Fatal(err)
	}
}

func mustMkdir(t *testing.T, path string, mode os.FileMode, owner int) {
	t.Helper()
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(path, owner, owner); err != nil {
		t.Fatal(err)
	}
}

func TestBadSharesAreRefused(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, h host)
		share   Share
		want    string
	}{
		"a source that the hypervisor swapped for a link to the root": {
			prepare: func(t *testing.T, h host) { asHypervisor(t, "/", h.vm+"/home") },
			share:   Share{Source: "home"}, want: "symbolic link",
		},
		"a source below a directory that was swapped for a link": {
			prepare: func(t *testing.T, h host) { asHypervisor(t, "/etc", h.vm+"/data") },
			share:   Share{Source: "data/ssl"}, want: "symbolic link",
		},
		"a source outside through a link that the hypervisor made": {
			prepare: func(t *testing.T, h host) { asHypervisor(t, "/etc", filepath.Dir(h.root)+"/out") },
			share:   Share{Source: "../../out"}, want: "hypervisor's user",
		},
		"a source that an operator's link leads into the state directory, to a link": {
			prepare: func(t *testing.T, h host) {
				asHypervisor(t, "/", h.vm+"/home")
				if err := os.Symlink(h.vm, filepath.Dir(h.root)+"/in"); err != nil {
					t.Fatal(err)
				}
			},
			share: Share{Source: "../../in/home"}, want: `"home" is a symbolic link in the state directory`,
		},
		"a source in the state directory of another VM through a link": {
			prepare: func(t *testing.T, h host) {
				mustMkdir(t, h.root+"/other", 0o755, 0)
				asHypervisor(t, "/", h.root+"/other/home")
			},
			share: Share{Source: "../other/home"}, want: "symbolic link",
		},
		"a source that is a file": {
			prepare: func(t *testing.T, h host) {
				if err := os.WriteFile(h.vm+"/home", nil, 0o644); err != nil {
					t.Fatal(err)
				}
			},
			share: Share{Source: "home"}, want: "is not a directory",
		},
		"the state directory itself": {
			prepare: func(*testing.T, host) {}, share: Share{Source: "."}, want: "is the state directory itself",
		},
		"all state directories": {
			prepare: func(*testing.T, host) {}, share: Share{Source: ".."}, want: "is the state directory itself",
		},
		"no source": {
			prepare: func(*testing.T, host) {}, share: Share{Source: "\x00"}, want: "invalid source",
		},
		"a socket outside the state directory": {
			prepare: func(*testing.T, host) {}, share: Share{Socket: "../other/x.sock"}, want: "is not inside the state directory",
		},
		"a socket with an absolute path elsewhere": {
			prepare: func(*testing.T, host) {}, share: Share{Socket: "/tmp/x.sock"}, want: "is not inside the state directory",
		},
		"a socket path that Linux does not allow": {
			prepare: func(*testing.T, host) {}, share: Share{Socket: strings.Repeat("s", 108)}, want: "must be at most 107 bytes long, not 108",
		},
		"a socket in a directory that is a link": {
			prepare: func(t *testing.T, h host) { asHypervisor(t, "/run", h.vm+"/sockets") },
			share:   Share{Socket: "sockets/x.sock"}, want: "goes through a symbolic link",
		},
		"a socket whose name is a link": {
			prepare: func(t *testing.T, h host) { asHypervisor(t, "/run/x.sock", h.vm+"/x.sock") },
			share:   Share{Socket: "x.sock"}, want: "is not a socket",
		},
		"a socket whose name a file has": {
			prepare: func(t *testing.T, h host) {
				if err := os.WriteFile(h.vm+"/x.sock", nil, 0o644); err != nil {
					t.Fatal(err)
				}
			},
			share: Share{Socket: "x.sock"}, want: "is not a socket",
		},
		"a tag with a slash": {
			prepare: func(*testing.T, host) {}, share: Share{Tag: "a/b", Socket: "x.sock", Source: "home"}, want: "must not contain '/'",
		},
		"a tag that is too long": {
			prepare: func(*testing.T, host) {}, share: Share{Tag: strings.Repeat("t", 37), Socket: "x.sock"}, want: "must be 1 to 36 bytes long, not 37",
		},
		"a virtiofsd that is not there": {
			prepare: func(*testing.T, host) {}, share: Share{Program: "/nonexistent/virtiofsd"}, want: "hint: install virtiofsd 1.8 or newer",
		},
	}
	for title, test := range tests {
		t.Run(title, func(t *testing.T) {
			h := newHost(t)
			test.prepare(t, h)
			if test.share.Tag == "" {
				test.share.Tag = "home"
			}
			err := refused(t, h, test.share)
			if !strings.Contains(exit.Text(err), test.want) {
				t.Errorf("error %s, want one with %q", exit.Text(err), test.want)
			}
			// What can be fixed without another package is tried again.
			fixable := slices.Contains([]string{"is not a directory", "is not a socket", "hint: install virtiofsd 1.8 or newer"}, test.want)
			if exit.IsConfig(err) == fixable {
				t.Errorf("error %v: exit.IsConfig is %v", err, !fixable)
			}
			if _, exists := h.stat(t, "home.sock"); exists {
				t.Error("a socket is left")
			}
		})
	}
}

func TestAllBadSharesAreReportedAtOnce(t *testing.T) {
	h := newHost(t)
	err := refused(t, h, Share{Tag: "a/b", Socket: "1"}, Share{Tag: "same", Socket: "2"}, Share{Tag: "same", Socket: "./2"})
	for _, want := range []string{`invalid tag "a/b"`, "another share has the same tag", `is already used by share "same"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestAnOperatorsLinkToTheSourceIsFollowed(t *testing.T) {
	h := newHost(t)
	outside := filepath.Dir(h.root)
	mustMkdir(t, outside+"/data", 0o755, 0)
	if err := os.Symlink("data", outside+"/link"); err != nil {
		t.Fatal(err)
	}
	cfg := h.config()
	fd, w, err := openSource(&cfg, outside+"/link")
	if err != nil {
		t.Fatal(err)
	}
	defer safepath.Close(fd)
	if w.inside || w.created {
		t.Errorf("inside %v, created %v; want neither", w.inside, w.created)
	}
	if path, err := os.Readlink(safepath.ProcPath(fd)); err != nil || path != outside+"/data" {
		t.Errorf("opened %q, %v", path, err)
	}
}

func TestLinksThatAGuestCouldHaveMadeAreNotFollowed(t *testing.T) {
	h := newHost(t)
	outside := filepath.Dir(h.root)
	for _, dir := range []string{"/data", "/data/sub", "/ops", "/secret", "/up"} {
		mustMkdir(t, outside+dir, 0o755, 0)
	}
	for link, target := range map[string]string{
		"/data/pub": outside + "/secret", "/data/sub/pub": "../../secret",
		"/ops/data": "../data", "/ops/secret": "../secret", "/up/up": "..",
	} {
		if err := os.Symlink(target, outside+link); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		source, written string
		readOnly        bool
		// want is in the error; opened is where the walk ends without.
		want, opened string
	}{
		"in the source":                   {source: "/data/pub", written: "/data", want: `"pub" is a symbolic link inside share "data"`},
		"below the source":                {source: "/data/sub/pub", written: "/data", want: `"pub" is a symbolic link inside share "data"`},
		"by an operator's link":           {source: "/ops/data/pub", written: "/data", want: `"pub" is a symbolic link inside share "data"`},
		"in a source that is a link":      {source: "/data/pub", written: "/ops/data", want: `"pub" is a symbolic link inside share "data"`},
		"up":                              {source: "/data/sub/../../secret", written: "/data", want: `goes up with ".." inside share "data"`},
		"to a source around the link":     {source: "/up/up", written: "/up/up", want: `"up" is a symbolic link inside share "data"`},
		"a source that is missing":        {source: "/ops/secret", written: "/nowhere", opened: "/secret"},
		"a source that another's link is": {source: "/ops/secret", written: "/data/pub", opened: "/secret"},
		"an operator's, beside":           {source: "/ops/secret", written: "/data", opened: "/secret"},
		"up, beside":                      {source: "/ops/../secret", written: "/data", opened: "/secret"},
		"an operator's into the source":   {source: "/ops/data/sub", written: "/data", opened: "/data/sub"},
		"the source itself":               {source: "/ops/data", written: "/ops/data", opened: "/data"},
		"in a source that is read only":   {source: "/data/pub", written: "/data", readOnly: true, opened: "/secret"},
	}
	for title, test := range tests {
		own := h.config(Share{Tag: "data", Source: outside + test.written, ReadOnly: test.readOnly})
		foreign := h.config()
		foreign.Others = func() ([]Writable, error) {
			return []Writable{{VM: "db", Tag: "data", Source: outside + test.written}}, nil
		}
		for vm, cfg := range map[string]Config{"web": own, "db": foreign} {
			if test.readOnly && vm == "db" {
				continue
			}
			t.Run(title+" of "+vm, func(t *testing.T) {
				fd, _, err := openSource(&cfg, outside+test.source)
				if test.want != "" {
					if err == nil || !strings.Contains(err.Error(), test.want+` of VM "`+vm+`"`) || !exit.IsConfig(err) {
						t.Errorf("error %v, want one with %q", err, test.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer safepath.Close(fd)
				if path, err := os.Readlink(safepath.ProcPath(fd)); err != nil || path != outside+test.opened {
					t.Errorf("opened %q, %v", path, err)
				}
			})
		}
	}
}

func TestWhoDoesNotKnowWhatGuestsWriteFollowsNoLink(t *testing.T) {
	h := newHost(t)
	outside := filepath.Dir(h.root)
	mustMkdir(t, outside+"/data", 0o755, 0)
	if err := os.Symlink("data", outside+"/link"); err != nil {
		t.Fatal(err)
	}
	cfg := h.config()
	unread := errors.New("unread")
	cfg.Others = func() ([]Writable, error) { return nil, unread }
	if _, _, err := openSource(&cfg, outside+"/link"); !errors.Is(err, unread) {
		t.Errorf("error %v", err)
	}
	fd, _, err := openSource(&cfg, outside+"/data")
	if err != nil {
		t.Fatalf("without a link: %v", err)
	}
	safepath.Close(fd)
}

// A hypervisor that keeps replacing its directory with a link must never get the link's
// target.
func TestASourceThatIsSwappedAllTheTimeNeverLeadsOut(t *testing.T) {
	h := newHost(t)
	mustMkdir(t, h.vm+"/home", 0o775, hypervisorID)
	asHypervisor(t, "/etc", h.vm+"/link")
	stop := make(chan struct{})
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, h.vm+"/home", unix.AT_FDCWD, h.vm+"/link", unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-swapped }()
	cfg := h.config()
	opened, turned := 0, 0
	// On a busy machine it takes a while until the swapping goroutine runs.
	began := time.Now()
	for time.Since(began) < 500*time.Millisecond || (opened == 0 || turned == 0) && time.Since(began) < time.Minute {
		fd, w, err := openSource(&cfg, "home")
		if err != nil {
			turned++
			continue
		}
		opened++
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		safepath.Close(fd)
		if st.Uid != hypervisorID || !w.inside {
			t.Fatal("opened a directory that is not the share's")
		}
	}
	if opened == 0 || turned == 0 {
		t.Errorf("%d opened, %d refused: the swap did not happen", opened, turned)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	h := newHost(t)
	dir, err := unix.Open(h.vm, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer safepath.Close(dir)
	var records []Socket
	for range 2 {
		fd, socket, err := listen(dir, "sub/x.sock", hypervisorID)
		if err != nil {
			t.Fatal(err)
		}
		safepath.Close(fd)
		records = append(records, socket)
	}
	// The record of the first must not remove the second.
	if err := RemoveSockets(h.vm, records[:1]); err != nil && records[0] != records[1] {
		t.Fatal(err)
	}
	if err := RemoveSockets(h.vm, records[1:]); err != nil {
		t.Fatal(err)
	}
	if _, exists := h.stat(t, "sub/x.sock"); exists {
		t.Error("the socket is left")
	}
	if err := RemoveSockets(h.vm, records); err != nil {
		t.Errorf("remove again: %v", err)
	}
}

func TestASocketHasItsGroupAndModeInADirectoryThatSetsAnother(t *testing.T) {
	h := newHost(t)
	mustMkdir(t, h.vm+"/s", 0o755, 0)
	if err := os.Chmod(h.vm+"/s", 0o755|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Open(h.vm, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer safepath.Close(dir)
	fd, _, err := listen(dir, "s/x.sock", hypervisorID)
	if err != nil {
		t.Fatal(err)
	}
	safepath.Close(fd)
	st, _ := h.stat(t, "s/x.sock")
	if st.Uid != 0 || st.Gid != hypervisorID || st.Mode&0o7777 != socketMode {
		t.Errorf("socket is %d:%d %04o", st.Uid, st.Gid, st.Mode&0o7777)
	}
}

// script writes a shell script in place of a virtiofsd and returns its path.
func script(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := t.TempDir() + "/virtiofsd"
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgramsThatRootDoesNotRun(t *testing.T) {
	need.Root(t)
	ran := t.TempDir() + "/ran"
	touch := "touch " + ran
	foreign := script(t, touch, 0o755)
	if err := os.Chown(foreign, hypervisorID, hypervisorID); err != nil {
		t.Fatal(err)
	}
	open := script(t, touch, 0o755)
	if err := os.Chmod(filepath.Dir(open), 0o777); err != nil {
		t.Fatal(err)
	}
	link, away := t.TempDir()+"/virtiofsd", t.TempDir()+"/virtiofsd"
	near, err := filepath.Rel(filepath.Dir(link), foreign)
	if err := errors.Join(err, os.Symlink(near, link), os.Symlink(script(t, touch, 0o755), away)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		foreign:                 "root runs only programs that it owns",
		link:                    "root runs only programs that it owns",
		away:                    "writable by non-root users", // a sticky directory behind a link
		open:                    "writable by non-root users",
		script(t, touch, 0o775): "writable by non-root users",
		script(t, touch, 0o644): "is not an executable file",
		"virtiofsd":             "path must be absolute",
		"/usr/bin":              "is not an executable file",
	} {
		_, err := findProgram(path)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", path, err, want)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("one was run")
	}
}

func TestTheOldVirtiofsdIsNamed(t *testing.T) {
	need.Root(t)
	// Part of the help text of QEMU 7's virtiofsd.
	old := script(t, `echo "    -o cache=<mode>            cache mode"`, 0o755)
	_, err := findProgram(old)
	if !errors.Is(err, errOldC) || !strings.Contains(exit.Hint(err), "install virtiofsd 1.8 or newer") {
		t.Errorf("error %v", err)
	}
	if _, err := findProgram(script(t, "echo hello", 0o755)); err == nil || !strings.Contains(err.Error(), "not a supported virtiofsd") {
		t.Errorf("error %v", err)
	}
}

func TestCommandLines(t *testing.T) {
	new := &program{path: "/usr/libexec/virtiofsd", readonly: true, tag: true, translate: true}
	old := &program{path: "/usr/libexec/virtiofsd"}
	full := Share{Tag: "home", ReadOnly: true, Cache: "always", PosixACL: true, InodeFileHandles: "mandatory", Threads: 8, PassTag: true, ExtraArgs: []string{"--announce-submounts"}}
	got, err := full.argv(new, "/run/m", false)
	want := []string{
		"/usr/libexec/virtiofsd", "--fd=3", "--shared-dir=/run/m", "--modcaps=-mknod", "--thread-pool-size=8",
		"--cache=always", "--xattr", "--posix-acl", "--inode-file-handles=mandatory", "--readonly", "--tag=home", "--announce-submounts",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
	if _, err := full.argv(old, "/run/m", false); err == nil || !strings.Contains(err.Error(), "--tag") {
		t.Errorf("error %v, want one about --tag", err)
	}
	// 1.8 does not know --readonly; the mount is read-only all the same.
	own := Share{ExtraArgs: []string{"--modcaps=+sys_admin", "--xattr", "--modcaps", "-fsetid:+SETFCAP"}}
	got, err = own.argv(new, "/run/m", true)
	want = []string{
		"/usr/libexec/virtiofsd", "--fd=3", "--shared-dir=/run/m", "--modcaps=-mknod:-setfcap:+sys_admin:-fsetid:+SETFCAP", "--thread-pool-size=0", "--xattr",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
	if got, err := (&Share{Tag: "home", ReadOnly: true}).argv(old, "/run/m", true); err != nil || slices.Contains(got, "--readonly") {
		t.Errorf("got %q, %v; want no --readonly", got, err)
	}
	translating := Share{Tag: "home", ExtraArgs: []string{"--translate-uid", "map:0:1000:1"}}
	if _, err := translating.argv(old, "/run/m", false); err == nil || !strings.Contains(err.Error(), "--translate-uid") {
		t.Errorf("error %v, want one about --translate-uid", err)
	}
	if _, err := translating.argv(new, "/run/m", true); err != nil {
		t.Error(err)
	}
}

func TestWhoseGuestIsConfined(t *testing.T) {
	allowed := []string{"--modcaps=-chown:+setfcap"}
	for _, test := range []struct {
		share        Share
		inside, want bool
	}{
		{share: Share{}, want: true},
		{share: Share{ReadOnly: true}, want: false},
		{share: Share{ReadOnly: true}, inside: true, want: true},
		{share: Share{ExtraArgs: allowed}, want: false},
		{share: Share{ExtraArgs: allowed}, inside: true, want: true},
		{share: Share{ExtraArgs: []string{"--modcaps=-setfcap"}}, want: true},
		{share: Share{ExtraArgs: []string{"+setfcap"}}, want: true},
	} {
		if got := test.share.confined(test.inside); got != test.want {
			t.Errorf("%+v, inside %v: %v", test.share, test.inside, got)
		}
	}
}

func TestBackingOff(t *testing.T) {
	fault := errors.New("exit status 1")
	var p pacer
	var waited time.Duration
	for i := 1; ; i++ {
		delay, giveUp := p.after(fault, time.Millisecond)
		if giveUp {
			if i != maxFailures {
				t.Errorf("given up after %d failures, want %d", i, maxFailures)
			}
			break
		}
		waited += delay
	}
	if waited != 3100*time.Millisecond {
		t.Errorf("waited %v in all, want 3.1s", waited)
	}
	p = pacer{}
	if delay, _ := p.after(nil, time.Hour); delay != 0 {
		t.Errorf("after a client that left: delay %v, want none", delay)
	}
	for range 20 {
		_, _ = p.after(nil, time.Millisecond)
	}
	if delay, giveUp := p.after(nil, time.Millisecond); delay != maxPause || giveUp {
		t.Errorf("after a client that comes and goes: %v, %v; want %v and no end", delay, giveUp, maxPause)
	}
	for range 100 {
		if _, giveUp := p.after(fault, goodRun); giveUp {
			t.Error("given up although each ran well")
		}
	}
}

func TestLogLinesCannotSteerATerminal(t *testing.T) {
	var got []string
	in := "plain\n\x1b[31mred\x07\x9b2J\n" + strings.Repeat("x", 3*maxLine) + "\nlast"
	copyLines(strings.NewReader(in), func(s string) { got = append(got, s) })
	if len(got) != 4 || got[0] != "plain" || got[1] != "red2J" || len(got[2]) > maxLine || got[3] != "last" {
		t.Errorf("got %q", got)
	}
}
