// Package virtiofsd serves the shared directories of one VM: it binds every
// share's socket itself, starts one virtiofsd a share with that socket and
// keeps them running until it is told to stop.
//
// virtiofsd leaves when its client does. The listening sockets stay open here,
// so a hypervisor that starts again connects at once and waits, if at all, for
// a virtiofsd that is already on its way.
//
// The package holds the design's trust rules for shares: the hypervisor's user
// can write most of the state directory, and a guest writes into its shares as
// root. Sockets are therefore bound through a directory handle, sources are
// opened without following a link once the state directory, or a directory that
// a guest writes, is entered, and what virtiofsd gets is that open directory,
// mounted in a mount namespace that nobody else sees. A guest that writes is kept
// from making what gives rights on the host. It knows neither units nor specs.
//
// The daemon is virtiofsd 1.8 or newer, https://gitlab.com/virtio-fs/virtiofsd.
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
	// Tag is what the guest mounts, at most 36 bytes.
	Tag string
	// Source is the directory, relative to the state directory unless absolute.
	Source string
	// Socket is relative to the state directory, or absolute inside it; at
	// most 107 bytes, because the hypervisor connects to it by this name.
	Socket string
	// SocketGID is the group of the socket: mode 0660, owned by root.
	SocketGID int
	// Program is an absolute path; empty means a search, see Locate.
	Program string
	// ReadOnly mounts the source read-only and tells virtiofsd so.
	ReadOnly bool
	// Cache is virtiofsd's --cache; empty leaves it to virtiofsd.
	Cache string
	// PosixACL passes --posix-acl and --xattr.
	PosixACL bool
	// InodeFileHandles is never, prefer or mandatory; empty leaves it to virtiofsd.
	InodeFileHandles string
	// Threads is the size of the thread pool; 0 means none.
	Threads int
	// PassTag gives virtiofsd --tag, which crosvm needs.
	PassTag bool
	// ExtraArgs come last, so that they win; their --modcaps adds to ours. With
	// +setfcap in it, a guest may make set-user-ID files and give files
	// capabilities, outside the state directories.
	ExtraArgs []string
}

// Config is everything that Run needs to know.
type Config struct {
	// StateRoot holds the state directories of all VMs, StateDir is this VM's.
	StateRoot, StateDir string
	// MountPoint is an existing directory that only root can write. Each
	// virtiofsd finds its share mounted there, in a mount namespace of its own.
	MountPoint string
	// OwnerUID and OwnerGID own the source directories that are created; they
	// are the hypervisor's.
	OwnerUID, OwnerGID int
	Shares             []Share
	// Others returns what the guests of other VMs write. It is called only where
	// a source's path goes through a link or up; nil means that there are none.
	Others func() ([]Writable, error)
	// Log receives whole lines.
	Log io.Writer
	// Bound is called with the sockets once all are bound and before anything
	// is started; it may be nil.
	Bound func([]Socket) error
	// Ready is called once all sockets listen; it may be nil.
	Ready func() error
	// Lost is called with a share's tag when its virtiofsd failed under a client.
	// No hypervisor connects to the next one, so the share is of no use to the
	// guest until its VM is restarted. It may be nil.
	Lost func(tag string)
}

// shareError names the share that an error is about.
func shareError(tag string, err error) error { return fmt.Errorf("share %q: %w", tag, err) }

// configErrorf makes an error that no retry helps: a bad share, or a path that is
// refused because of who could have made it. What is missing, a source or a
// program, may be there the next time.
func configErrorf(format string, args ...any) error { return exit.Configf(format, args...) }

// validate refuses what cannot work, all faults at once.
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
			faults = append(faults, shareError(s.Tag, configErrorf("two shares have this tag; each needs its own")))
		}
		tags[s.Tag] = true
		socket, _ := socketName(c.StateDir, s.Socket)
		if other, taken := sockets[socket]; taken {
			faults = append(faults, shareError(s.Tag, configErrorf("socket %q is also that of share %q; each needs its own", s.Socket, other)))
		}
		sockets[socket] = s.Tag
	}
	return errors.Join(faults...)
}

// validate checks one share's names.
func (s *Share) validate(stateDir string) error {
	if err := validateTag(s.Tag); err != nil {
		return err
	}
	if s.Source == "" || strings.ContainsRune(s.Source, 0) {
		return configErrorf("source %q is no path; name the directory to share", s.Source)
	}
	if len(s.Socket) > maxSocketPath {
		return configErrorf("socket path %q is %d bytes; Linux allows %d, so shorten it", s.Socket, len(s.Socket), maxSocketPath)
	}
	if s.Threads < 0 {
		return configErrorf("thread pool size %d is negative; 0 means no pool", s.Threads)
	}
	_, err := socketName(stateDir, s.Socket)
	return err
}

// validateTag refuses a tag that the device cannot carry or that would be
// mistaken for a path.
func validateTag(tag string) error {
	if tag == "" || len(tag) > maxTag {
		return configErrorf("tag is %d bytes; virtiofs allows 1 to %d", len(tag), maxTag)
	}
	for _, r := range tag {
		if r == '/' || r < ' ' || r == 0x7f {
			return configErrorf("tag %q has the character %q, which no tag may have; use letters, digits, \"-\", \"_\" and \".\"", tag, r)
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
		return "", configErrorf("socket %q is not inside the state directory %s; name it relative to that", socket, stateDir)
	}
	return rel, nil
}
