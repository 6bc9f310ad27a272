package safepath

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/test/need"
)

// attacker is a user who may write in the directory but is not trusted.
const attacker = 4321

// world is a directory that hostile users write in, and one next to it that must not
// change.
type world struct {
	t               *testing.T
	inside, outside string
	dir             int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// The runtime's own descriptors, which it opens with the first pipe.
	if r, w, err := os.Pipe(); err == nil {
		_, _ = r.Close(), w.Close()
	}
	top := t.TempDir()
	// For other users, too.
	if err := os.Chmod(filepath.Dir(top), 0o755); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, inside: top + "/inside", outside: top + "/outside"}
	w.sh("mkdir -p inside/sub outside/sub; echo secret | tee outside/file outside/sub/file; echo ours | tee inside/file inside/sub/file")
	var err error
	if w.dir, err = OpenDir(w.inside); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(w.dir) })
	return w
}

// sh runs a script in the directory above both.
func (w *world) sh(script string) {
	w.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = filepath.Dir(w.inside)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// untouched returns a function that fails the test if anything outside was created,
// changed or removed since.
func (w *world) untouched() func() {
	before := w.list()
	return func() {
		w.t.Helper()
		if after := w.list(); after != before {
			w.t.Errorf("outside changed from\n%s\nto\n%s", before, after)
		}
	}
}

func (w *world) list() string {
	w.t.Helper()
	out, err := exec.Command("find", w.outside, "-printf", `%P %y %m %U:%G %s %i\n`).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// swapped exchanges two names again and again while do runs, and then puts them
// back.
func (w *world) swapped(a, b string, do func()) {
	w.t.Helper()
	swap := func() { _ = unix.Renameat2(w.dir, a, w.dir, b, unix.RENAME_EXCHANGE) }
	w.while(swap, do)
}

// while calls attack again and again, in a thread of its own, until do has ended.
func (w *world) while(attack, do func()) {
	w.t.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				attack()
			}
		}
	}()
	do()
	close(stop)
	<-stopped
}

// forAWhile calls do again and again, until each of seen has been counted. On a
// busy machine an attack may not have a turn for a second; the test fails if there
// was none in a minute.
func forAWhile(do func(), seen ...*int) {
	began := time.Now()
	missing := func(n *int) bool { return *n == 0 }
	for time.Since(began) < 300*time.Millisecond || slices.ContainsFunc(seen, missing) && time.Since(began) < time.Minute {
		do()
	}
}

// inTime fails the test if do blocks.
func inTime(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: timed out", what)
	}
}

// asUser runs do as a user in no other group. It changes only its own thread, which
// exits afterwards; package syscall changes all threads.
func asUser(t *testing.T, uid int, do func()) {
	t.Helper()
	need.Root(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		id := uintptr(uid)
		for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				done <- errno
				return
			}
		}
		defer close(done)
		do()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func mustBe(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// open returns the number of open descriptors of this process.
func open(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// closes fails the test if do leaves a descriptor open.
func closes(t *testing.T, do func()) {
	t.Helper()
	before := open(t)
	do()
	if after := open(t); after != before {
		t.Errorf("%d descriptors were open before, %d after", before, after)
	}
}

var long = strings.Repeat("n", 256)

// hostile are names inside, each with the error that is expected if it is opened as a
// directory or as a file without following links.
var hostile = []struct {
	name string
	// dir is the error of opening a directory, file of opening a regular file.
	dir, file error
}{
	{"to-outside", unix.ELOOP, unix.ELOOP},
	{"to-outside/sub", unix.ELOOP, unix.ELOOP},
	{"to-outside/file", unix.ELOOP, unix.ELOOP},
	{"to-absolute", unix.ELOOP, unix.ELOOP},
	{"to-absolute/file", unix.ELOOP, unix.ELOOP},
	{"to-inside", unix.ELOOP, unix.ELOOP},
	{"to-inside/file", unix.ELOOP, unix.ELOOP},
	{"to-nothing", unix.ELOOP, unix.ELOOP},
	{"loop", unix.ELOOP, unix.ELOOP},
	{"loop/file", unix.ELOOP, unix.ELOOP},
	{"to-proc/cwd", unix.ELOOP, unix.ELOOP},
	{"..", unix.EXDEV, unix.EXDEV},
	{"../outside", unix.EXDEV, unix.EXDEV},
	{"../inside", unix.EXDEV, unix.EXDEV},
	{"sub/../../outside/file", unix.EXDEV, unix.EXDEV},
	{"/", unix.EXDEV, unix.EXDEV},
	{"/etc/passwd", unix.EXDEV, unix.EXDEV},
	{"", unix.ENOENT, unix.ENOENT},
	{"missing", unix.ENOENT, unix.ENOENT},
	{"missing/file", unix.ENOENT, unix.ENOENT},
	{"file/x", unix.ENOTDIR, unix.ENOTDIR},
	{"pipe", unix.ENOTDIR, ErrNotRegular},
	{"socket", unix.ENOTDIR, ErrNotRegular},
	{"device", unix.ENOTDIR, ErrNotRegular},
	{"file", unix.ENOTDIR, nil},
	{"hard", unix.ENOTDIR, nil},
	{"new\nline", nil, ErrNotRegular},
	{"new\nline/x", unix.ENOENT, unix.ENOENT},
	{"sub", nil, ErrNotRegular},
	{"sub/../sub/.", nil, ErrNotRegular},
	{long, unix.ENAMETOOLONG, unix.ENAMETOOLONG},
	{strings.Repeat("x/", unix.PathMax/2), unix.ENAMETOOLONG, unix.ENAMETOOLONG},
	{"a\x00b", unix.EINVAL, unix.EINVAL},
}

// fill creates the hostile names.
func (w *world) fill() {
	w.t.Helper()
	need.Root(w.t)
	w.sh("cd inside; ln -s ../outside to-outside; ln -s " + w.outside + " to-absolute; ln -s sub to-inside; ln -s nowhere to-nothing; ln -s loop loop; ln -s /proc/self to-proc; ln file hard; mkfifo pipe; mknod device c 1 3; mkdir '" + "new\nline'")
	listen(w.t, w.inside+"/socket", unix.SOCK_STREAM)
}

// listen creates a socket whose connections are not accepted.
func listen(t *testing.T, path string, kind int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	return fd
}

// quiet reports whether there was no connection to a listening socket.
func quiet(t *testing.T, fd int) bool {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	conn, _, err := unix.Accept(fd)
	if err == nil {
		Close(conn)
	}
	return err == syscall.EAGAIN
}

// TestAFileIsOpenedWithoutProc, as in a jail: the same file or none.
func TestAFileIsOpenedWithoutProc(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"file", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(at)
	fd, err := OpenBeneath(at, "file", unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	f, err := OpenSame(at, "file", fd)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil || string(text) != "file" {
		t.Errorf("%q, %v", text, err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, swapped := range []string{"other", "pipe"} {
		if err := os.Rename(filepath.Join(dir, swapped), filepath.Join(dir, "file")); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSame(at, "file", fd); !errors.Is(err, ErrReplaced) {
			t.Errorf("%s in its place: %v", swapped, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSame(at, "file", fd); !errors.Is(err, unix.ENOENT) {
		t.Errorf("gone: %v", err)
	}
	if _, err := OpenSame(at, ".", at); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a directory: %v", err)
	}
}
