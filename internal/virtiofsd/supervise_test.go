package virtiofsd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/test/need"

	"microvm/internal/exit"
	"microvm/test/testutil"
)

// hypervisorID is the user and group of the hypervisor in these tests.
const hypervisorID = 65534

// needDaemon returns the real virtiofsd. In a test host it has to be there.
func needDaemon(t *testing.T) string {
	t.Helper()
	need.Root(t)
	need.Program(t, "virtiofsd")
	p, err := findProgram("")
	if err != nil {
		t.Fatal(err)
	}
	return p.path
}

// host is a state directory as install-microvm makes it.
type host struct{ root, vm, mount string }

func newHost(t *testing.T) host {
	t.Helper()
	need.Root(t)
	dir := t.TempDir()
	h := host{root: dir + "/state", vm: dir + "/state/web", mount: dir + "/run"}
	for _, d := range []string{h.root, h.vm, h.mount} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(h.vm, 0o775|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(h.vm, 0, hypervisorID); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h host) config(shares ...Share) Config {
	for i := range shares {
		shares[i].SocketGID = hypervisorID
		if shares[i].Socket == "" {
			shares[i].Socket = shares[i].Tag + ".sock"
		}
		if shares[i].Source == "" {
			shares[i].Source = shares[i].Tag
		}
	}
	return Config{
		StateRoot: h.root, StateDir: h.vm, MountPoint: h.mount,
		OwnerUID: hypervisorID, OwnerGID: hypervisorID, Shares: shares,
	}
}

// running is a supervisor that has reported its readiness.
type running struct {
	host
	log  *testutil.Buffer
	stop func() error
	// lost gets the shares whose virtiofsd failed under a client.
	lost chan string
}

// start runs the shares until the test ends or stop is called.
func start(t *testing.T, h host, shares ...Share) *running {
	t.Helper()
	cfg := h.config(shares...)
	r := &running{host: h, log: &testutil.Buffer{}, lost: make(chan string, 10)}
	cfg.Log = r.log
	cfg.Lost = func(tag string) { r.lost <- tag }
	ready := make(chan struct{})
	cfg.Ready = func() error { close(ready); return nil }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("not ready after a minute")
	}
	return r
}

// refused runs the shares and returns the error that has to come before they
// are ready.
func refused(t *testing.T, h host, shares ...Share) error {
	t.Helper()
	cfg := h.config(shares...)
	cfg.Log = &testutil.Buffer{}
	cfg.Ready = func() error { t.Error("it became ready"); return errors.New("ready") }
	err := Run(t.Context(), cfg)
	if err == nil {
		t.Fatal("no error")
	}
	return err
}

func (r *running) dial(t *testing.T, tag string) *client {
	t.Helper()
	return dial(t, filepath.Join(r.vm, tag+".sock"))
}

// waitLog waits until the log says something.
func (r *running) waitLog(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Contains(r.log.String(), text) {
			return
		}
	}
	t.Errorf("the log does not say %q", text)
}

// waitLines waits until the log has text n times.
func (r *running) waitLines(t *testing.T, text string, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); strings.Count(r.log.String(), text) < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not say %q %d times:\n%s", text, n, r.log)
		}
	}
}

// stat returns a file of the state directory as the host sees it.
func (h host) stat(t *testing.T, path string) (st unix.Stat_t, exists bool) {
	t.Helper()
	err := unix.Lstat(filepath.Join(h.vm, path), &st)
	if err != nil && err != unix.ENOENT {
		t.Fatal(err)
	}
	return st, err == nil
}

func TestAGuestReadsAndWritesItsShare(t *testing.T) {
	needDaemon(t)
	old := unix.Umask(0o027)
	t.Cleanup(func() { unix.Umask(old) })
	r := start(t, newHost(t), Share{Tag: "home", Cache: "auto", PosixACL: true, InodeFileHandles: "prefer", Threads: 2})
	st, _ := r.stat(t, "home")
	if st.Uid != hypervisorID || st.Gid != hypervisorID || st.Mode&0o7777 != 0o775 {
		t.Errorf("source is %d:%d %04o, want the hypervisor's and 0775", st.Uid, st.Gid, st.Mode&0o7777)
	}
	st, _ = r.stat(t, "home.sock")
	if st.Uid != 0 || st.Gid != hypervisorID || st.Mode&0o7777 != 0o660 {
		t.Errorf("socket is %d:%d %04o, want 0:%d 0660", st.Uid, st.Gid, st.Mode&0o7777, hypervisorID)
	}
	if err := os.WriteFile(filepath.Join(r.vm, "home/from-host"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := r.dial(t, "home")
	if errno := c.lookup(t, "from-host"); errno != 0 {
		t.Errorf("look up a file of the host's: %v", errno)
	}
	node, handle, errno := c.create(t, "from-guest", 0o666)
	if errno != 0 {
		t.Fatalf("create: %v", errno)
	}
	if errno := c.write(t, node, handle, "hello"); errno != 0 {
		t.Fatalf("write: %v", errno)
	}
	got, err := os.ReadFile(filepath.Join(r.vm, "home/from-guest"))
	if err != nil || string(got) != "hello" {
		t.Errorf("the host reads %q, %v", got, err)
	}
	if st, _ := r.stat(t, "home/from-guest"); st.Mode&0o7777 != 0o666 {
		t.Errorf("the file has mode %04o, want 0666: the guest's umask counts, not the unit's", st.Mode&0o7777)
	}
	for line := range strings.Lines(r.log.String()) {
		if !strings.HasPrefix(line, "home: ") {
			t.Errorf("log line %q does not name its share", line)
		}
	}
}

func TestEverySandboxOfVirtiofsdFindsTheShare(t *testing.T) {
	needDaemon(t)
	for _, mode := range []string{"namespace", "chroot", "none"} {
		t.Run(mode, func(t *testing.T) {
			r := start(t, newHost(t), Share{Tag: "home", ExtraArgs: []string{"--sandbox=" + mode}})
			c := r.dial(t, "home")
			if _, _, errno := c.create(t, "new", 0o644); errno != 0 {
				t.Fatalf("create: %v", errno)
			}
			if _, exists := r.stat(t, "home/new"); !exists {
				t.Error("the file is not in the share")
			}
		})
	}
}

func TestAReadOnlyShareStaysAsItIs(t *testing.T) {
	needDaemon(t)
	r := start(t, newHost(t), Share{Tag: "store", ReadOnly: true})
	c := r.dial(t, "store")
	if _, _, errno := c.create(t, "new", 0o644); errno != unix.EROFS {
		t.Errorf("create: %v, want EROFS", errno)
	}
	if _, exists := r.stat(t, "store/new"); exists {
		t.Error("the file exists")
	}
}

func TestAGuestCannotMakeWhatCountsOnTheHost(t *testing.T) {
	needDaemon(t)
	for where, share := range map[string]Share{
		"in the state directory":       {Source: "home"},
		"elsewhere":                    {Source: "../../data"},
		"with capabilities of its own": {Source: "../../data", ExtraArgs: []string{"--modcaps", "-mknod:+sys_chroot"}},
	} {
		t.Run(where, func(t *testing.T) {
			share.Tag, share.PosixACL = "home", true
			makeWhatCounts(t, start(t, newHost(t), share), share.Source)
		})
	}
}

// makeWhatCounts tries as the guest of the share "home".
func makeWhatCounts(t *testing.T, r *running, source string) {
	t.Helper()
	c := r.dial(t, "home")

	// Having served another user, virtiofsd is hidden from processes without
	// CAP_SYS_PTRACE, and the supervisor has to look at its descriptors.
	if err := os.Chmod(filepath.Join(r.vm, source), 0o777); err != nil {
		t.Fatal(err)
	}
	c.uid = 1000
	if _, _, errno := c.create(t, "of-user", 0o644); errno != 0 {
		t.Fatalf("create as a user: %v", errno)
	}
	if st, _ := r.stat(t, source+"/of-user"); st.Uid != c.uid {
		t.Errorf("the file belongs to %d, want %d", st.Uid, c.uid)
	}
	c.uid = 0

	if errno := c.mknod(t, "null", unix.S_IFCHR|0o666, uint32(unix.Mkdev(1, 3))); errno != unix.EPERM {
		t.Errorf("make a device node: %v, want EPERM", errno)
	}
	if _, exists := r.stat(t, source+"/null"); exists {
		t.Error("the device node exists")
	}
	if errno := c.mknod(t, "fifo", unix.S_IFIFO|0o644, 0); errno != 0 {
		t.Errorf("make a fifo: %v", errno)
	}
	for _, mode := range []uint32{0o4755, 0o2755, 0o6755} {
		if _, _, errno := c.create(t, fmt.Sprintf("born-%o", mode), mode); errno != unix.EPERM {
			t.Errorf("create with mode %04o: %v, want EPERM", mode, errno)
		}
		if errno := c.mknod(t, fmt.Sprintf("node-%o", mode), unix.S_IFREG|mode, 0); errno != unix.EPERM {
			t.Errorf("mknod with mode %04o: %v, want EPERM", mode, errno)
		}
	}
	node, handle, errno := c.create(t, "sh", 0o755)
	if errno != 0 {
		t.Fatalf("create: %v", errno)
	}
	for _, mode := range []uint32{0o4755, 0o2755, 0o6711, 0o4000} {
		for how, h := range map[string]uint64{"by name": 0, "by handle": handle} {
			if errno := c.chmod(t, node, h, mode); errno != unix.EPERM {
				t.Errorf("chmod %04o %s: %v, want EPERM", mode, how, errno)
			}
		}
	}
	if errno := c.chmod(t, node, 0, 0o1777); errno != 0 {
		t.Errorf("chmod 1777: %v", errno)
	}
	if errno := c.chown(t, node, 1000, 100); errno != 0 {
		t.Errorf("chown: %v", errno)
	}
	if st, _ := r.stat(t, source+"/sh"); st.Uid != 1000 || st.Gid != 100 || st.Mode&0o7777 != 0o1777 {
		t.Errorf("the file is %d:%d %04o, want 1000:100 1777", st.Uid, st.Gid, st.Mode&0o7777)
	}
	if errno := c.setxattr(t, node, "user.test", []byte("x")); errno != 0 {
		t.Errorf("set an attribute: %v", errno)
	}
	// cap_dac_override in revision 2 of the format, capabilities(7).
	capability := le(uint32(0x02000001), uint32(2), uint32(0), uint32(0), uint32(0))
	if errno := c.setxattr(t, node, "security.capability", capability); errno == 0 {
		t.Error("the guest gave a file capabilities")
	}
	dir, errno := c.mkdir(t, "shared")
	if errno != 0 {
		t.Fatalf("mkdir: %v", errno)
	}
	if errno := c.chmod(t, dir, 0, 0o2775); errno != 0 {
		t.Errorf("chmod 2775 of a directory: %v", errno)
	}
	if errno := c.chmod(t, dir, 0, 0o4775); errno != unix.EPERM {
		t.Errorf("chmod 4775 of a directory: %v, want EPERM", errno)
	}
	err := filepath.Walk(filepath.Join(r.vm, source), func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && info.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeDevice) != 0 {
			t.Errorf("the guest left %s %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := r.stat(t, source+"/shared"); st.Mode&0o7777 != 0o2775 {
		t.Errorf("the directory has mode %04o, want 2775", st.Mode&0o7777)
	}
	r.waitLog(t, "home: the guest asked for file mode 4755: refused")
}

// Where the guest's system is in a share, its packages bring such files.
func TestAnOperatorMayAllowWhatCountsOnTheHost(t *testing.T) {
	needDaemon(t)
	r := start(t, newHost(t), Share{Tag: "home", Source: "../../data", PosixACL: true, ExtraArgs: []string{"--modcaps=+setfcap"}})
	c := r.dial(t, "home")
	node, _, errno := c.create(t, "su", 0o755)
	if errno != 0 {
		t.Fatalf("create: %v", errno)
	}
	if errno := c.setxattr(t, node, "security.capability", le(uint32(0x02000001), uint32(2), uint32(0), uint32(0), uint32(0))); errno != 0 {
		t.Errorf("give the file capabilities: %v", errno)
	}
	if errno := c.chmod(t, node, 0, 0o4755); errno != 0 {
		t.Errorf("chmod 4755: %v", errno)
	}
	if errno := c.mknod(t, "null", unix.S_IFCHR|0o666, uint32(unix.Mkdev(1, 3))); errno != unix.EPERM {
		t.Errorf("make a device node: %v, want EPERM", errno)
	}
}

func TestAGuestsLinksLeadNowhereOnTheHost(t *testing.T) {
	needDaemon(t)
	h := newHost(t)
	r := start(t, h, Share{Tag: "home"})
	c := r.dial(t, "home")
	if errno := c.symlink(t, "sub", "/"); errno != 0 {
		t.Fatalf("symlink: %v", errno)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	// The guest is root, so the link is root's; the share that names it is
	// refused all the same.
	for _, source := range []string{"home/sub", "home/sub/etc", filepath.Join(h.vm, "home/sub")} {
		err := refused(t, h, Share{Tag: "sub", Source: source})
		if !strings.Contains(err.Error(), "symbolic link") || !exit.IsConfig(err) {
			t.Errorf("source %q: error %v", source, err)
		}
	}
}

func TestTheNextClientIsServedAtOnce(t *testing.T) {
	needDaemon(t)
	r := start(t, newHost(t), Share{Tag: "home"})
	for i := range 5 {
		begin := time.Now()
		c := r.dial(t, "home")
		t.Logf("client %d served after %v", i, time.Since(begin))
		c.close()
	}
	if log := r.log.String(); strings.Contains(log, "next try in") {
		t.Errorf("a client that leaves is taken for a failure:\n%s", log)
	}
}

func TestAKilledVirtiofsdIsReplaced(t *testing.T) {
	needDaemon(t)
	r := start(t, newHost(t), Share{Tag: "home"})
	r.dial(t, "home").close()
	r.waitLog(t, clientLine) // of the real program
	r.waitLog(t, "Client disconnected")
	r.waitLines(t, "Waiting for vhost-user socket connection", 2)
	kill := func() {
		t.Helper()
		for _, pid := range children() {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill()
	r.waitLines(t, "killed by SIGKILL", 1)
	if len(r.lost) != 0 {
		t.Error("a client was lost, of a virtiofsd that had none")
	}
	r.dial(t, "home")
	r.waitLines(t, clientLine, 2)
	kill()
	select {
	case tag := <-r.lost:
		if tag != "home" {
			t.Errorf("share %q was lost", tag)
		}
	case <-time.After(time.Minute):
		t.Error("nobody is told that the client is lost")
	}
	r.waitLines(t, "the guest has lost this share", 1)
	r.dial(t, "home")
}

func TestStoppingLeavesNothing(t *testing.T) {
	needDaemon(t)
	h := newHost(t)
	var shares []Share
	for i := range 4 {
		shares = append(shares, Share{Tag: fmt.Sprintf("share%d", i)})
	}
	// The runtime opens its poller once.
	if err := start(t, h, shares...).stop(); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	r := start(t, h, shares...)
	c := r.dial(t, "share0")
	begin := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("stopping took %v", d)
	}
	c.close()
	if left := children(); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	for i := range 4 {
		if _, exists := r.stat(t, fmt.Sprintf("share%d.sock", i)); exists {
			t.Errorf("socket %d is left", i)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), h.root) || strings.Contains(string(mounts), h.mount) {
		t.Error("a mount is left")
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// descriptors counts those of this process, once those that goroutines still
// close are closed.
func descriptors(t *testing.T) int {
	t.Helper()
	least := math.MaxInt
	for range 20 {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		least = min(least, len(entries))
		time.Sleep(5 * time.Millisecond)
	}
	return least
}

func TestAShareThatKeepsFailingEndsWithTheReason(t *testing.T) {
	needDaemon(t)
	h := newHost(t)
	cfg := h.config(Share{Tag: "home", ExtraArgs: []string{"--cache=nonsense"}}, Share{Tag: "other"})
	log := &testutil.Buffer{}
	cfg.Log = log
	begin := time.Now()
	err := Run(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), `share "home": virtiofsd failed 6 times in a row`) || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
	if d := time.Since(begin); d < 3*time.Second {
		t.Errorf("it gave up after %v, without backing off", d)
	}
	if left := children(); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if _, exists := h.stat(t, "other.sock"); exists {
		t.Error("the other share's socket is left")
	}
}

// The guest of a share outside the state directory is root there, too, and so are
// its links: neither this VM's shares nor another's are led away by them.
func TestAGuestsLinksLeadNoOtherShareAway(t *testing.T) {
	needDaemon(t)
	h := newHost(t)
	outside := filepath.Dir(h.root)
	writable := Share{Tag: "data", Source: outside + "/data"}
	r := start(t, h, writable)
	c := r.dial(t, "data")
	if errno := c.symlink(t, "pub", "/"); errno != 0 {
		t.Fatalf("symlink: %v", errno)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if st, _ := h.stat(t, "../../data/pub"); st.Uid != 0 || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Fatalf("the guest made %o of user %d, want a link of root's", st.Mode, st.Uid)
	}
	for _, source := range []string{outside + "/data/pub", outside + "/data/pub/etc", "../../data/pub"} {
		pub := Share{Tag: "pub", Source: source}
		err := refused(t, h, writable, pub)
		if want := `share "data" of VM "web"`; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `share "pub"`) || !exit.IsConfig(err) {
			t.Errorf("source %q: error %v, want one with %q", source, err, want)
		}
		cfg := h.config(pub)
		cfg.Log = &testutil.Buffer{}
		cfg.Ready = func() error { return errors.New("it became ready") }
		cfg.Others = func() ([]Writable, error) { return []Writable{{VM: "db", Tag: "all", Source: outside + "/data"}}, nil }
		err = Run(t.Context(), cfg)
		if want := `share "all" of VM "db"`; err == nil || !strings.Contains(err.Error(), want) || !exit.IsConfig(err) {
			t.Errorf("source %q: error %v, want one with %q", source, err, want)
		}
	}
}

// superviseEnv makes this test binary a supervisor of the state directory that
// it names, which another process can kill.
const superviseEnv = "VIRTIOFSD_TEST_SUPERVISE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(superviseEnv); dir != "" {
		h := host{root: dir + "/state", vm: dir + "/state/web", mount: dir + "/run"}
		cfg := h.config(Share{Tag: "home"}, Share{Tag: "data"})
		cfg.Log = os.Stderr
		cfg.Ready = func() error { _, err := fmt.Println("ready"); return err }
		fmt.Println(Run(context.Background(), cfg))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestAKilledSupervisorTakesItsDaemonsWithIt(t *testing.T) {
	needDaemon(t)
	h := newHost(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), superviseEnv+"="+filepath.Dir(h.root))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	// A client that is served: the daemon's sandboxed child is at work.
	c := dial(t, filepath.Join(h.vm, "home.sock"))
	// Two of two processes each, and the second may be on its way.
	daemons := descendants(t, cmd.Process.Pid)
	for end := time.Now().Add(time.Minute); len(daemons) < 4; daemons = descendants(t, cmd.Process.Pid) {
		if time.Now().After(end) {
			t.Fatalf("daemons %v, want two of two processes each", daemons)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	c.close()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		daemons = slices.DeleteFunc(daemons, func(pid int) bool { return gone(pid) })
		if len(daemons) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("still there after a minute: %v", daemons)
		}
	}
	// What it left does not keep the next one from starting.
	r := start(t, h, Share{Tag: "home"}, Share{Tag: "data"})
	r.dial(t, "home")
}

// gone says whether a process has ended; nobody may be there to reap it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// descendants are the processes below one.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		// A process that ended since has no children.
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(append(pids, child), descendants(t, child)...)
		}
	}
	return pids
}
