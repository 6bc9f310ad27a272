package virtiofsd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/unit"
	"golang.org/x/sys/unix"

	"microvm/internal/mounts"
)

// Beneath a directory nothing is opened through a link, openat2(2).
const resolveBeneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// maxLinks is the number of symbolic links on one path that is followed, as in
// path_resolution(7).
const maxLinks = 40

// procFD is a path for a descriptor of this process.
func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openBeneath opens the directory rel beneath dir and follows no link. The
// caller closes the handle.
func openBeneath(dir int, rel string) (int, error) {
	return openat2(dir, rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: resolveBeneath,
	})
}

// openat2 tries again where a rename elsewhere made the kernel give up.
func openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, path, how)
		if (err == unix.EAGAIN || err == unix.EINTR) && try < 16 {
			continue
		}
		return fd, err
	}
}

// makeBeneath opens the directory rel beneath dir and creates what is missing
// of it, owned by root and writable by nobody else. The caller closes the handle.
func makeBeneath(dir int, rel string) (int, error) {
	at, err := unix.Dup(dir)
	if err != nil {
		return -1, err
	}
	unix.CloseOnExec(at)
	for name := range strings.SplitSeq(filepath.Clean(rel), "/") {
		if name == "." {
			continue
		}
		next, err := makeDir(at, name, 0o755)
		closeFD(at)
		if err != nil {
			return -1, fmt.Errorf("directory %q: %w", name, err)
		}
		at = next
	}
	return at, nil
}

// makeDir opens the directory name in dir, or creates it with the mode given.
func makeDir(dir int, name string, mode uint32) (int, error) {
	fd, err := openBeneath(dir, name)
	if err != unix.ENOENT {
		return fd, err
	}
	if err := mkdirAs(dir, name, mode, 0, 0); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return openBeneath(dir, name)
}

// mkdirAs creates the directory name in dir with the owner and mode given. It
// makes it private first: whoever may write in dir can move the new directory
// away and put another in its place, so what is opened then is checked to be a
// directory as it was just made before it changes hands.
func mkdirAs(dir int, name string, mode uint32, uid, gid int) error {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil {
		return err
	}
	fd, err := openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: resolveBeneath,
	})
	if err != nil {
		return err
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&0o777 != 0o700 || st.Nlink > 2 {
		return fmt.Errorf("directory %q was replaced while it was created: %w", name, unix.EPERM)
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode)
}

// closeFD closes a descriptor that was only read or a handle, where an error
// has no meaning.
func closeFD(fd int) { _ = unix.Close(fd) }

// inode identifies a file while it is held open.
type inode struct {
	dev, ino uint64
}

// inodeOf returns the identity of an open file.
func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return inode{}, err
	}
	return inode{uint64(st.Dev), st.Ino}, nil
}

// walker opens a source component by component, because links are followed
// where operators make them, and never where a hypervisor or a guest could.
type walker struct {
	// root is the directory of all state directories; inside is set when the
	// walk enters it, by whatever path.
	root   inode
	inside bool
	// ownerUID is the hypervisor's user, whose links are not followed.
	ownerUID uint32
	// create makes what is missing, the last component for the hypervisor's
	// user; created says that it did.
	ownerGID int
	created  bool
	// lookup makes nothing.
	lookup bool
	// covers finds the directories that guests write. It is asked only where the
	// path goes through a link or up; trail is where the walk came through.
	covers func() ([]cover, error)
	trail  []inode

	links int
	at    int
	todo  []string
}

// openSource opens the source directory of a share, creates it where it is
// missing, and returns a handle that the caller closes.
func openSource(cfg *Config, source string) (fd int, w *walker, err error) {
	source = cfg.absSource(source)
	w = cfg.walker()
	if err := w.findRoot(cfg.StateRoot); err != nil {
		return -1, nil, err
	}
	if err := w.walk(source); err != nil {
		w.close()
		return -1, nil, fmt.Errorf("open source %q: %w", source, err)
	}
	return w.at, w, nil
}

func (c *Config) walker() *walker {
	return &walker{ownerUID: uint32(c.OwnerUID), ownerGID: c.OwnerGID, covers: sync.OnceValues(c.covers), at: -1} //nolint:gosec // a uid is 32 bits
}

// findRoot notes which directory holds the state directories.
func (w *walker) findRoot(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open state directory %q: %w", path, err)
	}
	defer closeFD(fd)
	w.root, err = inodeOf(fd)
	return err
}

func (w *walker) close() {
	if w.at >= 0 {
		closeFD(w.at)
	}
	w.at = -1
}

// walk goes to the absolute path, one component a step.
func (w *walker) walk(path string) error {
	if err := w.start(); err != nil {
		return err
	}
	w.push(path)
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		if err := w.step(name); err != nil {
			return err
		}
	}
	return nil
}

// start begins at the root directory.
func (w *walker) start() error {
	w.close()
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return w.enter(fd)
}

// push puts the components of a path before those that are left.
func (w *walker) push(path string) {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	w.todo = append(names, w.todo...)
}

// step enters one component.
func (w *walker) step(name string) error {
	if name == ".." && w.inside {
		return configErrorf("it goes up with \"..\" inside the state directory; write the path without")
	}
	if name == ".." {
		if err := w.refuseUp(); err != nil {
			return err
		}
	}
	// O_DIRECTORY makes an automount point mount.
	fd, err := unix.Openat(w.at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		return w.enter(fd)
	case unix.ENOENT:
		if w.lookup {
			break
		}
		return w.make(name)
	case unix.ENOTDIR, unix.ELOOP:
		return w.follow(name)
	}
	return fmt.Errorf("%q: %w", name, err)
}

// enter makes fd the place to go on from.
func (w *walker) enter(fd int) error {
	w.close()
	w.at = fd
	id, err := inodeOf(fd)
	w.inside = w.inside || id == w.root
	w.trail = append(w.trail, id)
	return err
}

// refuseUp refuses to go up from where a guest can move directories about.
func (w *walker) refuseUp() error {
	share, err := w.covering()
	if err != nil {
		return fmt.Errorf("\"..\": %w", err)
	}
	if share == nil {
		return nil
	}
	return configErrorf("it goes up with \"..\" inside %v, whose guest could have moved what is there; write the path without", share)
}

// refuseUnmounted refuses to make what is missing only because the disk that holds
// it is not mounted yet: the guest would get an empty directory for its data.
func (w *walker) refuseUnmounted(name string) error {
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", w.at))
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	path := filepath.Join(append([]string{at, name}, w.todo...)...)
	point, err := mounts.Host.Missing(path)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if point != nil {
		return fmt.Errorf("%q not found, and %s is not mounted\nhint: mount it with: systemctl start %s.mount; an empty directory is not made in its place", path, point.Dir, unit.UnitNamePathEscape(point.Dir))
	}
	return nil
}

// make creates a missing component: the last one for the hypervisor's user,
// those before it for root.
func (w *walker) make(name string) error {
	if err := w.refuseUnmounted(name); err != nil {
		return err
	}
	uid, gid, mode := 0, 0, uint32(0o755)
	if len(w.todo) == 0 {
		uid, gid, mode = int(w.ownerUID), w.ownerGID, sourceMode
	}
	if err := mkdirAs(w.at, name, mode, uid, gid); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create %q: %w", name, err)
	}
	fd, err := openBeneath(w.at, name)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	w.created = len(w.todo) == 0
	return w.enter(fd)
}

// follow goes where a link points, if it may.
func (w *walker) follow(name string) error {
	fd, err := unix.Openat(w.at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return fmt.Errorf("%q is no directory; only directories are shared", name)
	}
	if w.inside {
		return configErrorf("%q is a symbolic link; inside the state directory none is followed, because the hypervisor could have made it: remove it", name)
	}
	if st.Uid == w.ownerUID && st.Uid != 0 {
		return configErrorf("%q is a symbolic link that belongs to the hypervisor's user; it is not followed: remove it", name)
	}
	share, err := w.covering()
	if err != nil {
		return fmt.Errorf("%q is a symbolic link: %w", name, err)
	}
	if share != nil {
		return configErrorf("%q is a symbolic link inside %v, and is not followed, because that guest could have made it: remove it, or name the directory that it leads to", name, share)
	}
	if w.links++; w.links > maxLinks {
		return configErrorf("%q: %w", name, unix.ELOOP)
	}
	target, err := readlinkFD(fd)
	if err != nil {
		return fmt.Errorf("read link %q: %w", name, err)
	}
	if strings.HasPrefix(target, "/") {
		if err := w.start(); err != nil {
			return err
		}
	}
	w.push(target)
	return nil
}

// readlinkFD reads the link that the handle stands for, not one of that name.
func readlinkFD(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
