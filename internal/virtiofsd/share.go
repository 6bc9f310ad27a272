package virtiofsd

import (
	"fmt"
	"os"
	"sync"

	"microvm/internal/safepath"
)

// served is a share and the resources that are open for it.
type served struct {
	*Share
	program  *program
	argv     []string
	source   int
	listener int
	socket   Socket
	confined bool
	made     bool
	// calls is the listener of the seccomp filter, see seccomp.Install; nil without
	// a filter.
	calls *os.File

	mu sync.Mutex
	// pid and pidfd belong to the running virtiofsd; 0 and -1 while none runs.
	pid, pidfd int
}

// open opens a share's source and binds its socket. close releases both, also
// after an error.
func (s *supervisor) open(share *Share) error {
	sv := &served{Share: share, source: -1, listener: -1, pidfd: -1}
	s.shares = append(s.shares, sv)
	rel, err := socketName(s.cfg.StateDir, share.Socket)
	if err != nil {
		return err
	}
	fd, w, err := openSource(s.cfg, share.Source)
	if err != nil {
		return err
	}
	sv.source, sv.confined, sv.made = fd, share.confined(w.inside), w.created
	if err := s.cfg.refuseStateDir(share, fd); err != nil {
		return err
	}
	sv.listener, sv.socket, err = listen(s.stateDir, rel, share.SocketGID)
	if err != nil {
		return err
	}
	if sv.made {
		s.log.line(share.Tag, "created missing source directory "+share.Source)
	}
	return nil
}

// command sets the share's program and its command line.
func (s *supervisor) command(sv *served, found foundProgram) error {
	if found.err != nil {
		return found.err
	}
	sv.program = found.program
	argv, err := sv.Share.argv(found.program, s.cfg.MountPoint, sv.confined)
	sv.argv = argv
	return err
}

// closeShare removes the share's socket and closes everything that is open for it.
func (s *supervisor) closeShare(sv *served) {
	if sv.source >= 0 {
		safepath.Close(sv.source)
	}
	if sv.calls != nil {
		_ = sv.calls.Close()
	}
	if sv.listener < 0 {
		return
	}
	if err := removeSocket(s.stateDir, sv.socket); err != nil {
		s.log.line(sv.Tag, fmt.Sprintf("remove socket %q: %v", sv.socket.Path, err))
	}
	safepath.Close(sv.listener)
}
