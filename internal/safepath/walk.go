package safepath

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is the number of links on one path that is followed, as in
	// path_resolution(7).
	maxLinks = 40
	// maxDepth is how deep a walk goes; it holds every directory open that it is in.
	maxDepth = 512
)

// Rules are asked for leave at the steps of a walk. What a nil one is for is
// allowed.
type Rules struct {
	// Entry is asked about each entry that is there: a directory before it is
	// entered, a link before it is followed, and the last one, whatever it is.
	Entry func(*Step) error
	// Up is asked where "..", of the path or of a link, goes up.
	Up func(*Step) error
	// Missing is called where there is no entry of that name. It may make it and
	// return a handle, which is asked about and gone on with, or return -1 to end
	// the walk there. Without Missing the error is ENOENT.
	Missing func(*Step) (fd int, err error)
	// Stop reports whether the walk is to end at a path without links before that
	// is looked at: a server that is away would hold it up.
	Stop func(path string) bool
}

// Step is where a walk is, and the entry that it has come to.
type Step struct {
	// Dir is a handle of the directory, DirPath its path without links and DirStat
	// what stat(2) says of it.
	Dir     int
	DirPath string
	DirStat *unix.Stat_t
	// Name is the entry's, Rest are the names that come after it.
	Name string
	Rest []string
	// FD is a handle of the entry, -1 where it is missing, and Stat is its own: a
	// link's, where it is one.
	FD   int
	Stat unix.Stat_t
	// Links is how many links were followed before.
	Links int
}

// Path is the entry's, without links before the last name.
func (s *Step) Path() string { return filepath.Join(s.DirPath, s.Name) }

// ID is the identity of the entry.
func (s *Step) ID() ID { return idOf(&s.Stat) }

// DirID is the identity of the directory.
func (s *Step) DirID() ID { return idOf(s.DirStat) }

// IsLink reports whether the entry is a symbolic link.
func (s *Step) IsLink() bool { return s.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsDir reports whether the entry is a directory.
func (s *Step) IsDir() bool { return s.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// Place is where a walk has ended.
type Place struct {
	// FD is a handle, -1 where what the path leads to is missing, or was not looked
	// at. Who called closes it.
	FD int
	// Path has no links, as far as they were followed.
	Path string
	// Stat is what stat(2) says.
	Stat unix.Stat_t
}

// Close closes the handle.
func (p *Place) Close() {
	if p.FD >= 0 {
		Close(p.FD)
	}
	p.FD = -1
}

// Walk resolves the absolute path as path_resolution(7) has it, one component a
// step, and asks the rules at each. It holds open every directory that it is in
// and looks at each entry by a handle, so that nothing can be exchanged between
// the look and the use, and ".." leads to where the walk came from, wherever
// somebody moves the directory meanwhile.
//
// Links of a process file system are not followed, ELOOP: those of proc(5) lead
// elsewhere than their text says, or say what a process wants them to.
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

// WalkBeneath is Walk for a path beneath the directory dir, which it does not
// leave: an absolute link, and ".." that leads out, is EXDEV. The paths of steps
// are relative to dir.
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
	// levels are the directories from the first one down to where the walk is;
	// there is at least one.
	levels []level
	todo   []string
	links  int
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

// enter makes the directory fd the one that the walk is in, or closes it.
func (w *walk) enter(fd int, path string) error {
	l := level{fd: fd, path: path}
	err := unix.Fstat(fd, &l.stat)
	if err == nil && len(w.levels) == maxDepth {
		err = fmt.Errorf("%s is deeper than %d directories: %w", path, maxDepth, unix.ENAMETOOLONG)
	}
	if err != nil {
		Close(fd)
		return err
	}
	w.levels = append(w.levels, l)
	return nil
}

// push puts the components of a path before those that are left.
func (w *walk) push(path string) {
	names := strings.Split(path, "/")
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" || name == "." })
	w.todo = append(names, w.todo...)
}

// at is the step to the next component. It is taken from what is left to do.
func (w *walk) at() *Step {
	l := &w.levels[len(w.levels)-1]
	s := &Step{Dir: l.fd, DirPath: l.path, DirStat: &l.stat, Name: w.todo[0], Rest: w.todo[1:], FD: -1, Links: w.links}
	w.todo = w.todo[1:]
	return s
}

// step goes one component further. It returns a place where the walk ends before
// its last directory.
func (w *walk) step() (*Place, error) {
	s := w.at()
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

// unseen is the place of what is not opened.
func unseen(s *Step) *Place {
	return &Place{FD: -1, Path: filepath.Join(append([]string{s.Path()}, s.Rest...)...)}
}

// openEntry returns a handle of whatever has the name in dir.
func openEntry(dir int, name string) (int, error) {
	// O_DIRECTORY makes an automount point mount, open(2) and autofs(5).
	fd, err := unix.Openat(dir, name, handle|unix.O_NOFOLLOW, 0)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// take goes on with the entry that a step has opened, and closes it where it is no
// directory to be in.
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

// up goes to the directory that the walk came from. Above the first one is none.
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

// follow goes where a link points.
func (w *walk) follow(s *Step) error {
	if w.links++; w.links > maxLinks {
		return fmt.Errorf("follow %s: more than %d links on the way: %w", s.Path(), maxLinks, unix.ELOOP)
	}
	var fs unix.Statfs_t
	err := unix.Fstatfs(s.FD, &fs)
	if err == nil && fs.Type == unix.PROC_SUPER_MAGIC {
		err = fmt.Errorf("it is a link of a process, which may lead anywhere: %w", unix.ELOOP)
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
