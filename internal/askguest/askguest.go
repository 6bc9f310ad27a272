// Package askguest asks a guest to go down by logging in to it over SSH on vsock. The
// guest may be hostile: everything read from it is limited in size and time.
package askguest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/guest"
	"microvm/internal/printable"
)

const (
	// port is that of sshd in a guest, systemd-ssh-generator(8).
	port = 22
	// pause is the time between two attempts to connect to a guest that is booting.
	pause = 300 * time.Millisecond
	// maxText is how many bytes of a guest's text are repeated.
	maxText = 200
)

// Request describes how a guest is asked to go down.
type Request struct {
	Address guest.Address
	// Key is the file with the key, beneath the state directory.
	Key string
	// Command makes the guest go down.
	Command string
	// Login is how long it may take until the command runs.
	Login time.Duration
	// Booting means that the guest may not have started its sshd yet.
	Booting bool
	// Asked is called when the guest runs the command.
	Asked func()
}

// Ask logs in to the guest and runs the command. It returns nil if the command
// succeeds or the guest goes down, and the cause in one line if the guest could not be
// asked in time, the command fails, or ctx ends.
func Ask(ctx context.Context, r Request) error {
	key, err := guest.ReadKey(r.Address.Dir, r.Key)
	if err != nil {
		return err
	}
	login, cancel := context.WithTimeout(ctx, r.Login)
	defer cancel()
	conn, err := reach(login, r)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	run, err := start(conn, key, r.Command)
	if err != nil {
		return explain(login, err, r.Login)
	}
	r.Asked()
	// Only the login has a time of its own; from here on ctx limits the guest.
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for the guest: %w", err)
	}
	return errors.Join(run.wait(), ctx.Err())
}

// reach connects to the guest's sshd, again and again if the guest is booting.
func reach(ctx context.Context, r Request) (*connection, error) {
	for {
		file, err := guest.Dial(ctx, r.Address, port)
		if err == nil {
			return newConnection(ctx, file)
		}
		if !r.Booting || ctx.Err() != nil {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// connection is a connection to the guest; it implements net.Conn.
type connection struct{ *os.File }

// LocalAddr implements net.Conn.
func (connection) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements net.Conn.
func (connection) RemoteAddr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "vsock" }
func (address) String() string  { return "guest" }

// newConnection takes file over, with ctx's deadline for reads and writes. It makes the
// descriptor non-blocking, as a deadline requires.
func newConnection(ctx context.Context, file *os.File) (*connection, error) {
	name := file.Name()
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("take over the connection to the guest: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("take over the connection to the guest: %w", errors.Join(err, unix.Close(fd)))
	}
	conn := &connection{os.NewFile(uintptr(fd), name)}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("take over the connection to the guest: %w", errors.Join(err, conn.Close()))
	}
	return conn, nil
}

// command is a command that runs in the guest.
type command struct {
	session *ssh.Session
	stderr  firstBytes
}

// start logs in as root and starts a command. When it returns, the guest has accepted
// the command.
func start(conn *connection, key guest.Key, line string) (*command, error) {
	signer, err := ssh.NewSignerFromKey(key.Private)
	if err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{
		User: "root",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		// The kernel, or the hypervisor, connects to this guest's address only, so there
		// is no one in between. A guest's host key may change at every boot. A program in
		// the guest that poses as sshd only learns that the guest is to go down: a
		// signature is valid for one session.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // see above
	})
	if err != nil {
		return nil, err
	}
	session, err := ssh.NewClient(c, channels, requests).NewSession()
	if err != nil {
		return nil, err
	}
	run := &command{session: session}
	session.Stderr = &run.stderr
	return run, session.Start(line)
}

// wait waits for the command to end, and returns an error if it exits with a status. A
// guest that goes down may end its sshd before that reports one.
func (c *command) wait() error {
	var failed *ssh.ExitError
	if err := c.session.Wait(); errors.As(err, &failed) && failed.Signal() == "" {
		return fmt.Errorf("the command exited with status %d: %s", failed.ExitStatus(), oneLine(string(c.stderr.data)))
	}
	return nil
}

// refusedKey is part of the error if the server accepts none of the client's keys, for
// which golang.org/x/crypto/ssh has no type: clientAuthenticate in client_auth.go.
const refusedKey = "ssh: unable to authenticate"

// explain returns the error of a failed login as one line, with a hint where there is
// one. ctx is that of the login, and limit its time.
func explain(ctx context.Context, err error, limit time.Duration) error {
	text := oneLine(err.Error())
	deadline, _ := ctx.Deadline()
	switch {
	case !time.Now().Before(deadline):
		return fmt.Errorf("its sshd does not answer within %s", limit)
	case strings.Contains(text, refusedKey):
		return exit.WithHint(exit.WithHint(errors.New("its sshd refuses the key"),
			"let root log in with the guest's credential ssh.ephemeral-authorized_keys-all"),
			"check AuthorizedKeysFile and PermitRootLogin in the guest's sshd_config")
	}
	return errors.New("log in to the guest: " + text)
}

// firstBytes keeps the first maxText bytes written to it.
type firstBytes struct{ data []byte }

// Write implements io.Writer.
func (f *firstBytes) Write(p []byte) (int, error) {
	f.data = append(f.data, p[:min(len(p), maxText-len(f.data))]...)
	return len(p), nil
}

// oneLine returns a guest's text as one short line without control sequences.
func oneLine(text string) string {
	return printable.Short(strings.Join(strings.Fields(text), " "), maxText)
}
