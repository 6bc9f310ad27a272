// Package virtiofsd serves the shared directories of one VM. It binds the socket of
// each share, starts one virtiofsd per share with that socket, and restarts it
// whenever it exits, until it is stopped.
//
// virtiofsd exits when its client disconnects. The listening sockets stay open in the
// supervisor, so a restarted hypervisor connects at once and waits, if at all, only
// for a virtiofsd that is already starting.
//
// The package enforces the trust rules for shares (docs/trust.md): the hypervisor's
// user can write to most of the state directory, and a guest writes to its shares as
// root. Sockets are therefore bound through a directory handle. Once the walk to a
// source has entered the state directory, or a directory that a guest writes, it
// follows no link. virtiofsd gets the open directory, mounted in a mount namespace of
// its own. A guest that can write is prevented from creating files that grant rights
// on the host. The package knows neither units nor specs.
//
// It needs virtiofsd 1.8 or newer, https://gitlab.com/virtio-fs/virtiofsd.
package virtiofsd

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"microvm/internal/exit"
)

// Limits of the kernel and of the virtio specification.
const (
	// maxSocketPath is the longest path of a Unix socket, unix(7).
	maxSocketPath = 107
	// maxTag is the length of the tag in the device's configuration space,
	// virtio 1.2, 5.11.4.
	maxTag = 36
)

// Share is one directory and the virtiofsd that serves it.
type Share struct {
	// Tag is the name by which the guest mounts the share, at most 36 bytes.
	Tag string
	// Source is the path of the directory, relative to the state directory unless
	// absolute.
	Source string
	// Socket is a path relative to the state directory, or an absolute one inside it.
	// It has at most 107 bytes, as the hypervisor connects to it by this path.
	Socket string
	// SocketGID is the group of the socket, which is owned by root and has mode 0660.
	SocketGID int
	// Program is an absolute path; if it is empty, virtiofsd is searched for, see
	// Locate.
	Program string
	// ReadOnly mounts the source read-only and passes --readonly.
	ReadOnly bool
	// Cache is the value of --cache; if it is empty, virtiofsd's default is used.
	Cache string
	// PosixACL passes --posix-acl and --xattr.
	PosixACL bool
	// InodeFileHandles is never, prefer or mandatory; if it is empty, virtiofsd's
	// default is used.
	InodeFileHandles string
	// Threads is the size of the thread pool; 0 means none.
	Threads int
	// PassTag passes --tag, which crosvm needs.
	PassTag bool
	// ExtraArgs come last, so that they override the others; their --modcaps is
	// appended to ours. If it has +setfcap, the guest can create set-user-ID files and
	// set file capabilities, except in state directories.
	ExtraArgs []string
}

// Config is the configuration of Run.
type Config struct {
	// StateRoot is the directory of all state directories, StateDir the one of this
	// VM.
	StateRoot, StateDir string
	// MountPoint is an existing directory that only root can write to. Each share is
	// mounted there, in the mount namespace of its virtiofsd.
	MountPoint string
	// OwnerUID and OwnerGID are those of the hypervisor. They own the source
	// directories that are created.
	OwnerUID, OwnerGID int
	Shares             []Share
	// Others returns the directories that the guests of other VMs write. It is called
	// only if a source's path goes through a link or "..". Nil means that there are
	// no other VMs.
	Others func() ([]Writable, error)
	// Log receives whole lines.
	Log io.Writer
	// Bound is called once all sockets are bound, before a virtiofsd is started; it
	// may be nil.
	Bound func([]Socket) error
	// Ready is called once all sockets listen; it may be nil.
	Ready func() error
	// Lost is called with a share's tag when its virtiofsd failed while a client was
	// connected. Hypervisors do not reconnect, so the guest cannot use the share until
	// its VM is restarted. It may be nil.
	Lost func(tag string)
}

// shareError returns err with the tag of the share that it is about.
func shareError(tag string, err error) error { return fmt.Errorf("share %q: %w", tag, err) }

// configErrorf returns an error that no retry can help: a bad share, or a path that a
// hypervisor or a guest may have prepared. A missing source or program is not such an
// error, as it may exist the next time.
func configErrorf(format string, args ...any) error { return exit.Configf(format, args...) }

// validate returns all faults of the shares at once.
func (c *Config) validate() error {
	var faults []error
	tags := map[string]bool{}
	sockets := map[string]string{}
	for i := range c.Shares {
		s := &c.Shares[i]
		if err := s.validate(c.StateDir); err != nil {
			faults = append(faults, shareError(s.Tag, err))
			continue
		}
		if tags[s.Tag] {
			faults = append(faults, shareError(s.Tag, configErrorf("another share has the same tag")))
		}
		tags[s.Tag] = true
		socket, _ := socketName(c.StateDir, s.Socket)
		if other, taken := sockets[socket]; taken {
			faults = append(faults, shareError(s.Tag, configErrorf("socket %q is already used by share %q", s.Socket, other)))
		}
		sockets[socket] = s.Tag
	}
	return errors.Join(faults...)
}

// validate checks the fields of one share.
func (s *Share) validate(stateDir string) error {
	if err := validateTag(s.Tag); err != nil {
		return err
	}
	if s.Source == "" || strings.ContainsRune(s.Source, 0) {
		return configErrorf("invalid source %q: must be the path of a directory", s.Source)
	}
	if len(s.Socket) > maxSocketPath {
		return configErrorf("invalid socket %q: must be at most %d bytes long, not %d", s.Socket, maxSocketPath, len(s.Socket))
	}
	if s.Threads < 0 {
		return configErrorf("invalid thread pool size %d: must be 0 or more", s.Threads)
	}
	_, err := socketName(stateDir, s.Socket)
	return err
}

// validateTag returns an error if the tag is too long for the device or contains
// characters that mean something in a path or a log.
func validateTag(tag string) error {
	if tag == "" || len(tag) > maxTag {
		return configErrorf("invalid tag: must be 1 to %d bytes long, not %d", maxTag, len(tag))
	}
	for _, r := range tag {
		if r == '/' || r < ' ' || r == 0x7f {
			return configErrorf("invalid tag %q: must not contain %q", tag, r)
		}
	}
	return nil
}

// socketName returns the socket's path relative to the state directory.
func socketName(stateDir, socket string) (string, error) {
	rel := socket
	if filepath.IsAbs(socket) {
		var err error
		rel, err = filepath.Rel(stateDir, socket)
		if err != nil {
			return "", configErrorf("socket %q: %w", socket, err)
		}
	}
	rel = filepath.Clean(rel)
	if socket == "" || rel == "." || !filepath.IsLocal(rel) || strings.ContainsRune(rel, 0) {
		return "", exit.WithHint(configErrorf("socket %q is not inside the state directory %s", socket, stateDir),
			"set it to a path relative to the state directory, such as fs.sock")
	}
	return rel, nil
}
