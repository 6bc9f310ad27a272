package safepath

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is how many links of one path are followed, as in path_resolution(7).
	maxLinks = 40
	// maxDepth limits the depth of a walk, which holds all directories above open.
	maxDepth = 512
)

// Rules are called at the steps of a walk, which ends with the error that one
// returns. All may be nil.
type Rules struct {
	// Entry is called for each entry that exists: for a directory before it is
	// entered, for a link before it is followed, and for the last one of any type. If
	// it is nil, all are allowed.
	Entry func(*Step) error
	// Up is called before "..", in the path or in a link, goes up. If it is nil, all
	// are allowed.
	Up func(*Step) error
	// Missing is called if an entry does not exist. It may create the entry and return
	// a handle, with which the walk goes on at Entry, or return -1 to end the walk
	// there. If it is nil, the error is ENOENT.
	Missing func(*Step) (fd int, err error)
	// Stop reports whether the walk ends before it accesses path, which has no links,
	// since the server of a network file system may not answer. If it is nil, no path
	// does.
	Stop func(path string) bool
}

// Step is one step of a walk: a directory and the entry to look up in it.
type Step struct {
	// Dir is a handle of the directory, DirPath its path without links and DirStat its
	// stat(2).
	Dir     int
	DirPath string
	DirStat *unix.Stat_t
	// Name is the name of the entry, Rest are the names after it.
	Name string
	Rest []string
	// FD is a handle of the entry, -1 if it does not exist, and Stat its lstat(2).
	FD   int
	Stat unix.Stat_t
	// Links is how many links were followed before.
	Links int
}

// Path returns the path of the entry, without links before the last name.
func (s *Step) Path() string { return filepath.Join(s.DirPath, s.Name) }

// ID returns the identity of the entry.
func (s *Step) ID() ID { return idOf(&s.Stat) }

// DirID returns the identity of the directory.
func (s *Step) DirID() ID { return idOf(s.DirStat) }

// IsLink reports whether the entry is a symbolic link.
func (s *Step) IsLink() bool { return s.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsDir reports whether the entry is a directory.
func (s *Step) IsDir() bool { return s.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// Place is where a walk has ended. The caller closes it.
type Place struct {
	// FD is a handle, -1 if the file does not exist or Stop ended the walk.
	FD int
	// Path is the path of the file. Links that the walk reached are resolved.
	Path string
	// Stat is the stat(2) of FD.
	Stat unix.Stat_t
}

// Close closes the handle, if there is one.
func (p *Place) Close() {
	if p.FD >= 0 {
		Close(p.FD)
	}
	p.FD = -1
}

// Walk resolves the absolute path as path_resolution(7) describes, one component at a
// time, and calls the rules at each. It holds open all directories above and checks
// each entry through a handle, so no file can be replaced between check and use, and
// ".." leads back to where the walk came from even if the directory is moved
// meanwhile.
//
// For links of a process file system, proc(5), the error is ELOOP: they lead elsewhere
// than readlink(2) returns, or a process controls what it returns.
func Walk(path string, rules Rules) (*Place, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is not an absolute path: %w", path, unix.EINVAL)
	}
	root, err := unix.Open("/", handle, 0)
	if err != nil {
		return nil, err
	}
	return run(&walk{rules: rules}, root, "/", path)
}

// WalkBeneath is Walk for a path beneath the directory dir, which it does not leave:
// the error is EXDEV for an absolute link and for a ".." that leads out. The paths of
// steps are relative to dir.
func WalkBeneath(dir int, rel string, rules Rules) (*Place, error) {
	if filepath.IsAbs(rel) {
		return nil, unix.EXDEV
	}
	root, err := OpenDirBeneath(dir, ".")
	if err != nil {
		return nil, err
	}
	return run(&walk{rules: rules, beneath: true}, root, ".", rel)
}

// level is a directory that a walk is in.
type level struct {
	fd   int
	path string
	stat unix.Stat_t
}

// walk is a path resolution in progress.
type walk struct {
	rules   Rules
	beneath bool
	// levels are the directories from the first one down to the current one, at least
	// one.
	levels []level
	// todo are the names that are left.
	todo  []string
	links int
}

// run walks from the directory root, which it closes.
func run(w *walk, root int, name, path string) (*Place, error) {
	defer w.close()
	if err := w.enter(root, name); err != nil {
		return nil, err
	}
	w.push(path)
	for len(w.todo) > 0 {
		end, err := w.step()
		if err != nil || end != nil {
			return end, err
		}
	}
	last := w.levels[len(w.levels)-1]
	w.levels = w.levels[:len(w.levels)-1]
	return &Place{FD: last.fd, Path: last.path, Stat: last.stat}, nil
}

func (w *walk) close() {
	for _, l := range w.levels {
		Close(l.fd)
	}
}

// enter makes fd the current directory of the walk, or closes it and fails.
func (w *walk) enter(fd int, path string) error {
	l := level{fd: fd, path: path}
	err := unix.Fstat(fd, &l.stat)
	if err == nil && len(w.levels) == maxDepth {
		err = fmt.Errorf("%s is nested deeper than %d directories: %w", path, maxDepth, unix.ENAMETOOLONG)
	}
	if err != nil {
		Close(fd)
		return err
	}
	w.levels = append(w.levels, l)
	return nil
}

// push puts the components of a path in front of those that are left.
func (w *walk) push(path string) {
	names := strings.Split(path, "/")
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" || name == "." })
	w.todo = append(names, w.todo...)
}

// next returns the step to the next component, which it removes from w.todo.
func (w *walk) next() *Step {
	l := &w.levels[len(w.levels)-1]
	s := &Step{Dir: l.fd, DirPath: l.path, DirStat: &l.stat, Name: w.todo[0], Rest: w.todo[1:], FD: -1, Links: w.links}
	w.todo = w.todo[1:]
	return s
}

// step goes one component further. It returns a place if the walk ends there, and nil
// if it goes on or w has no component left.
func (w *walk) step() (*Place, error) {
	s := w.next()
	if s.Name == ".." {
		return nil, w.up(s)
	}
	if w.rules.Stop != nil && w.rules.Stop(s.Path()) {
		return unseen(s), nil
	}
	var err error
	s.FD, err = openEntry(s.Dir, s.Name)
	if err == unix.ENOENT && w.rules.Missing != nil {
		s.FD, err = w.rules.Missing(s)
		if err == nil && s.FD < 0 {
			return unseen(s), nil
		}
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.Path(), err)
	}
	return w.take(s)
}

// unseen returns the place of an entry that is not opened.
func unseen(s *Step) *Place {
	return &Place{FD: -1, Path: filepath.Join(append([]string{s.Path()}, s.Rest...)...)}
}

// openEntry returns a handle of the entry name of dir, of any type.
func openEntry(dir int, name string) (int, error) {
	// O_DIRECTORY triggers an automount point, open(2) and autofs(5).
	fd, err := unix.Openat(dir, name, handle|unix.O_NOFOLLOW, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// take goes on with the entry that a step has opened: it enters a directory, follows a
// link, and returns the place if the entry is the last one. Otherwise it closes the
// entry.
func (w *walk) take(s *Step) (*Place, error) {
	err := unix.Fstat(s.FD, &s.Stat)
	if err == nil && w.rules.Entry != nil {
		err = w.rules.Entry(s)
	}
	if err == nil && s.IsDir() {
		return nil, w.enter(s.FD, s.Path())
	}
	if err == nil && !s.IsLink() && len(s.Rest) == 0 {
		return &Place{FD: s.FD, Path: s.Path(), Stat: s.Stat}, nil
	}
	defer Close(s.FD)
	if err == nil && !s.IsLink() {
		err = fmt.Errorf("open %s: %w", s.Path(), unix.ENOTDIR)
	}
	if err == nil {
		err = w.follow(s)
	}
	return nil, err
}

// up goes back to the parent directory. The first directory has none.
func (w *walk) up(s *Step) error {
	if w.rules.Up != nil {
		if err := w.rules.Up(s); err != nil {
			return err
		}
	}
	if len(w.levels) == 1 {
		if w.beneath {
			return unix.EXDEV
		}
		return nil // as in path_resolution(7)
	}
	Close(s.Dir)
	w.levels = w.levels[:len(w.levels)-1]
	return nil
}

// follow puts the target of a link in front of the components that are left.
func (w *walk) follow(s *Step) error {
	if w.links++; w.links > maxLinks {
		return fmt.Errorf("follow %s: more than %d symbolic links: %w", s.Path(), maxLinks, unix.ELOOP)
	}
	var fs unix.Statfs_t
	err := unix.Fstatfs(s.FD, &fs)
	if err == nil && fs.Type == unix.PROC_SUPER_MAGIC {
		err = fmt.Errorf("links of a process file system are not followed: %w", unix.ELOOP)
	}
	var target string
	if err == nil {
		target, err = ReadLink(s.FD)
	}
	if err != nil {
		return fmt.Errorf("follow %s: %w", s.Path(), err)
	}
	if filepath.IsAbs(target) {
		if w.beneath {
			return fmt.Errorf("follow %s: %w", s.Path(), unix.EXDEV)
		}
		for _, l := range w.levels[1:] {
			Close(l.fd)
		}
		w.levels = w.levels[:1]
	}
	w.push(target)
	return nil
}
