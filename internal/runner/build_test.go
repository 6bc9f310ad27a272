package runner

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/spec"
)

func TestAPackageIsReplacedAndAnythingElseIsNot(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "web")
	if _, err := Build(withQEMU(10, 0), readSpec(t, "taps"), dst, testOptions); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(withQEMU(10, 0), readSpec(t, "minimal"), dst, testOptions); err != nil {
		t.Fatalf("replace a package: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dst, tapFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file of the old package is still there: %v", err)
	}
	for name, make := range map[string]func(path string) error{
		"a file":              func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"a directory":         func(path string) error { return os.Mkdir(path, 0o755) },
		"a link to a package": func(path string) error { return os.Symlink(dst, path) },
	} {
		other := filepath.Join(t.TempDir(), "other")
		if err := make(other); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(other)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Build(withQEMU(10, 0), readSpec(t, "minimal"), other, testOptions)
		if err == nil || !strings.Contains(exit.Text(err), "already exists and is not a runner package\nhint: choose another name, or remove it") {
			t.Errorf("build over %s: %v", name, err)
		}
		if after, err := os.Lstat(other); err != nil || !os.SameFile(before, after) {
			t.Errorf("build over %s touched it: %v", name, err)
		}
	}
}

func TestAFailedBuildLeavesNothing(t *testing.T) {
	for _, name := range []string{"microvm-run", "microvm-shutdown"} {
		s := readSpec(t, "minimal")
		s.BinScripts = map[string]string{name: "true"}
		dir := t.TempDir()
		_, err := Build(withQEMU(10, 0), s, filepath.Join(dir, "web"), testOptions)
		var faults spec.Faults
		if !errors.As(err, &faults) || faults[0].Path != "binScripts."+name {
			t.Errorf("a script of the spec named %s: %v", name, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 0 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	dir := t.TempDir()
	var dumps []string
	for i, mask := range []int{0o000, 0o077} {
		old := unix.Umask(mask)
		dst := filepath.Join(dir, []string{"a", "b"}[i])
		_, err := Build(withQEMU(10, 0), readSpec(t, "everything"), dst, testOptions)
		unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		dumps = append(dumps, dump(t, dst))
	}
	if dumps[0] != dumps[1] {
		t.Error("two umasks give two packages")
	}
}

// packageWith creates a package directory with the given files.
func packageWith(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// foreign returns the files of a package of microvm.nix.
func foreign(more map[string]string) map[string]string {
	files := map[string]string{
		RunProgram:                               "#!/bin/sh\n",
		ShutdownProgram:                          "#!/bin/sh\n",
		hypervisorFile:                           "cloud-hypervisor\n",
		tapFile:                                  "vm-a1\nvm-a2\n",
		tapFlagsFile:                             "vnet_hdr\nmulti_queue",
		macvtapFile:                              "vm-m 02:00:00:00:00:01 eth0 bridge\n",
		pciFile:                                  "0000:01:00.0\n",
		vsockFile:                                "3",
		"share/microvm/virtiofs/ro-store/source": "/nix/store\n",
		"share/microvm/virtiofs/ro-store/socket": "web-virtiofs-ro-store.sock",
	}
	for name, content := range more {
		files[name] = content
	}
	return files
}

func TestAForeignPackageIsReadFromItsTextFiles(t *testing.T) {
	p := readPlan(t, packageWith(t, foreign(nil)))
	if !p.Foreign || p.Hypervisor != "cloud-hypervisor" || p.Argv[0] != RunProgram {
		t.Errorf("read %+v", p)
	}
	if p.Shutdown.Method != hypervisor.ShutdownScript || p.Readiness.Mode != hypervisor.ReadyNone {
		t.Errorf("goes down by %s, ready by %s", p.Shutdown.Method, p.Readiness.Mode)
	}
	want := []hypervisor.Tap{{ID: "vm-a1", VnetHdr: true, MultiQueue: true}, {ID: "vm-a2", VnetHdr: true, MultiQueue: true}}
	if len(p.Taps) != 2 || p.Taps[0] != want[0] || p.Taps[1] != want[1] {
		t.Errorf("taps are %+v", p.Taps)
	}
	if len(p.Shares) != 1 || p.Shares[0].Source != "/nix/store" || p.Shares[0].Socket != "web-virtiofs-ro-store.sock" {
		t.Errorf("shares are %+v", p.Shares)
	}
	if s := p.Shares[0]; s.PassTag || s.Cache != "auto" || !s.PosixACL || s.InodeFileHandles != "prefer" || !s.ThreadPoolNProc {
		t.Errorf("the share has not microvm.nix's defaults: %+v", s)
	}
	if len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "all are writable") {
		t.Errorf("the notes are %q", p.Notes)
	}
	if p := readPlan(t, packageWith(t, foreign(map[string]string{hypervisorFile: "crosvm\n"}))); !p.Shares[0].PassTag {
		t.Error("crosvm's virtiofsd is not told its tag")
	}
}

// TestTheSocketsOfAForeignPackage: microvm.nix takes any path, relative to the VM's
// directory.
func TestTheSocketsOfAForeignPackage(t *testing.T) {
	for socket, want := range map[string]string{
		"x.sock": "x.sock", "./x.sock": "x.sock", "sub/./x.sock": "sub/x.sock",
		"/var/lib/microvms/web/x.sock": "x.sock", "/var/lib/microvms/web/./sub/x.sock": "sub/x.sock",
		"/run/x.sock": "", "/var/lib/microvms/db/x.sock": "", "/var/lib/microvms/web": "", "/var/lib/microvms/web/../db/x.sock": "",
	} {
		p := readPlan(t, packageWith(t, foreign(map[string]string{"share/microvm/virtiofs/ro-store/socket": socket + "\n"})))
		got, here := p.Shares[0].SocketIn("/var/lib/microvms/web")
		if here != (want != "") || here && got != want {
			t.Errorf("%s is %q, in the VM's directory %v; want %q", socket, got, here, want)
		}
	}
}

func TestWhatAPackageMayNotSay(t *testing.T) {
	const share = "share/microvm/virtiofs/"
	tests := map[string]struct {
		files map[string]string
		want  string
	}{
		"a tap with a slash":             {map[string]string{tapFile: "../x\n"}, "tap interface"},
		"a tap of 16 bytes":              {map[string]string{tapFile: "vm-0123456789abc\n"}, "must be at most 15 bytes"},
		"one tap twice":                  {map[string]string{tapFile: "vm-a\nvm-a\n"}, "appears more than once"},
		"a tap and a macvtap of a name":  {map[string]string{tapFile: "vm-m\n"}, "appears more than once"},
		"an option as a tap":             {map[string]string{tapFile: "--help\n"}, "tap interface"},
		"three words for a macvtap":      {map[string]string{macvtapFile: "vm-m eth0 bridge\n"}, "must be ID MAC LINK MODE"},
		"an unknown mode":                {map[string]string{macvtapFile: "vm-m 02:00:00:00:00:01 eth0 open\n"}, `invalid mode "open": must be one of private`},
		"a multicast address":            {map[string]string{macvtapFile: "vm-m 03:00:00:00:00:01 eth0 bridge\n"}, "multicast"},
		"a PCI address with a path":      {map[string]string{pciFile: "../../0000:01:00.0\n"}, "PCI address"},
		"a CID of the host":              {map[string]string{vsockFile: "2"}, "must be from 3 to 4294967294, not 2"},
		"a CID that is a word":           {map[string]string{vsockFile: "two"}, "must be a number"},
		"a tag with a space":             {map[string]string{share + "a b/source": "/x", share + "a b/socket": "x"}, "tag"},
		"a share without a socket":       {map[string]string{share + "x/source": "/x"}, "must have one line, not 0"},
		"a share of two sources":         {map[string]string{share + "x/source": "/x\n/y", share + "x/socket": "x"}, "must have one line, not 2"},
		"a socket outside":               {map[string]string{share + "x/source": "/x", share + "x/socket": "../x.sock"}, "inside the state directory"},
		"a plan with a socket anywhere":  {map[string]string{planFile: `{"version":1,"argv":["x"],"hypervisor":"qemu","name":"web","shares":[{"tag":"a","source":"/x","socket":"/run/x.sock"}]}`}, "inside the state directory"},
		"two shares on a socket":         {map[string]string{share + "x/source": "/x", share + "x/socket": "web-virtiofs-ro-store.sock"}, "appears more than once"},
		"a hypervisor for the terminal":  {map[string]string{hypervisorFile: "\x1b[2Jqemu\n"}, "hypervisor"},
		"a file that is too large":       {map[string]string{tapFile: strings.Repeat("vm-a\n", maxFile)}, "larger than"},
		"too many taps":                  {map[string]string{tapFile: strings.Repeat("vm-a\n", maxInterfacesPack+1)}, "more than"},
		"half a plan":                    {map[string]string{planFile: `{"version":1,`}, "invalid plan"},
		"a plan without a command":       {map[string]string{planFile: `{"version":1}`}, "no command line"},
		"a plan of the future":           {map[string]string{planFile: `{"version":99,"unheardOf":true}`}, "update microvm on this host"},
		"a plan with unknown fields":     {map[string]string{planFile: `{"version":1,"argv":["x"],"unheardOf":true}`}, "unheardOf"},
		"a plan with a name for a path":  {map[string]string{planFile: `{"version":1,"argv":["x"],"hypervisor":"qemu","name":"../web"}`}, "VM name"},
		"a plan with a socket outside":   {map[string]string{planFile: `{"version":1,"argv":["x"],"hypervisor":"qemu","name":"web","staleSockets":["/etc/passwd"]}`}, "inside the state directory"},
		"a plan with a console outside":  {map[string]string{planFile: `{"version":1,"argv":["x"],"hypervisor":"qemu","name":"web","console":"../c"}`}, "console"},
		"a plan with a virtiofsd nearby": {map[string]string{planFile: `{"version":1,"argv":["x"],"hypervisor":"qemu","name":"web","shares":[{"tag":"a","source":"/x","socket":"a.sock","virtiofsd":"bin/virtiofsd"}]}`}, `invalid path "bin/virtiofsd" of virtiofsd: must be absolute`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Open(packageWith(t, foreign(test.files)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Close() }()
			if plan, err := p.Plan(); err == nil || !strings.Contains(exit.Text(err), test.want) {
				t.Errorf("got %v and %+v; want an error with %q", err, plan, test.want)
			}
		})
	}
}

func TestNothingIsReadOutsideThePackage(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "taps")
	if err := os.WriteFile(outside, []byte("vm-outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"a link out":      func(path string) error { return os.Symlink(outside, path) },
		"a link upwards":  func(path string) error { return os.Symlink("../../../x", path) },
		"a link to /proc": func(path string) error { return os.Symlink("/proc/self/fd/0", path) },
		"a pipe":          func(path string) error { return unix.Mkfifo(path, 0o644) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		files := foreign(nil)
		delete(files, tapFile)
		dir := packageWith(t, files)
		if err := put(filepath.Join(dir, tapFile)); err != nil {
			t.Fatal(err)
		}
		p, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if plan, err := p.Plan(); err == nil {
			t.Errorf("%s in place of a file was read: %+v", name, plan.Taps)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestADirectoryWithoutARunnerIsNoPackage(t *testing.T) {
	p, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if _, err := p.Plan(); err == nil || !strings.Contains(err.Error(), "is not a runner package") {
		t.Errorf("got %v", err)
	}
}

// FuzzReadPlan: whatever runner.json contains, a plan that is read has only valid names and
// can be written and read again.
func FuzzReadPlan(f *testing.F) {
	for _, name := range specNames(f) {
		plan, err := withQEMU(10, 0).Compile(readSpec(f, name))
		if err != nil {
			f.Fatal(err)
		}
		data, err := json.Marshal(plan)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		plan, err := decodePlan(data)
		if err != nil {
			return
		}
		checkNames(t, plan)
		again, err := json.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodePlan(again); err != nil {
			t.Errorf("%s: cannot be read again: %v", again, err)
		}
	})
}

// FuzzReadTextFiles: the same for the text files of a foreign package.
func FuzzReadTextFiles(f *testing.F) {
	f.Add("vm-a1\nvm-a2\n", "vnet_hdr\n", "vm-m 02:00:00:00:00:01 eth0 bridge\n", "0000:01:00.0\n", "3\n", "/nix/store", "x.sock")
	f.Fuzz(func(t *testing.T, taps, flags, macvtaps, pci, cid, source, socket string) {
		dir := packageWith(t, foreign(map[string]string{
			tapFile: taps, tapFlagsFile: flags, macvtapFile: macvtaps, pciFile: pci, vsockFile: cid,
			"share/microvm/virtiofs/x/source": source, "share/microvm/virtiofs/x/socket": socket,
		}))
		p, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		if plan, err := p.Plan(); err == nil {
			checkNames(t, plan)
		}
	})
}

// checkNames checks, independently, the names on which helpers act as root.
func checkNames(t *testing.T, p *hypervisor.Plan) {
	t.Helper()
	inside := func(path string) {
		if filepath.IsAbs(path) || !strings.HasPrefix(filepath.Clean("/x/"+path), "/x/") {
			t.Errorf("%q leaves the state directory", path)
		}
	}
	for _, tap := range p.Taps {
		if len(tap.ID) == 0 || len(tap.ID) > 15 || strings.ContainsAny(tap.ID, "/ \n\x00") {
			t.Errorf("tap %q", tap.ID)
		}
	}
	for _, s := range p.Shares {
		inside(s.Socket)
		if strings.ContainsAny(s.Tag, "/\n\x00") || s.Source == "" {
			t.Errorf("share %+v", s)
		}
	}
	for _, s := range slices.Concat(p.StaleSockets, p.StaleFiles, p.StaleDirs) {
		inside(s)
	}
	for _, d := range p.PCI {
		if len(d.Address) != len("0000:00:00.0") {
			t.Errorf("PCI device %q", d.Address)
		}
	}
}

// TestScriptsOfTheHelpersMaySayMore: a helper's script of the spec is put around our own
// commands, or replaces them. No unit runs it.
func TestScriptsOfTheHelpersMaySayMore(t *testing.T) {
	const ours = "exec '/lib/microvm-tap-interfaces' up"
	for name, tt := range map[string]struct{ script, want string }{
		"before":      {"echo first\n" + ownCommands + "\n", "set -e\necho first\n" + ours + "\n"},
		"behind":      {ownCommands + "\necho then", "set -e\n" + strings.TrimPrefix(ours, "exec ") + "\necho then"},
		"both":        {"a\n" + ownCommands + "\nb\n", "set -e\na\n" + strings.TrimPrefix(ours, "exec ") + "\nb\n"},
		"in place":    {"echo other", "echo other"},
		"only a line": {ownCommands, "set -e\n" + ours},
	} {
		if got := around(tt.script, ours+"\n"); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
