// Package askguest asks a guest to go down by logging in to it over SSH on vsock.
// The guest may be hostile: all that is read from it is bounded in size and time.
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

	"microvm/internal/guest"
	"microvm/internal/printable"
)

const (
	// port is where systemd-ssh-generator(8) has sshd listen in a guest.
	port = 22
	// pause is between two attempts to reach a guest that still boots.
	pause = 300 * time.Millisecond
	// maxText is how much of what a guest says is repeated.
	maxText = 200
)

// Request is what a guest is asked, and how.
type Request struct {
	Address guest.Address
	// Key is the file, beneath the state directory, with the key to log in with.
	Key string
	// Command makes the guest go down.
	Command string
	// Login is how long it may take until the command runs.
	Login time.Duration
	// Booting says that the guest's sshd may come up yet.
	Booting bool
	// Asked is called when the guest runs the command.
	Asked func()
}

// Ask logs in to the guest and has it shut down. It returns nil when the command
// has succeeded or the guest has gone, and the cause in one line where the guest
// could not be asked in time, or could not do it. The end of ctx ends it.
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
		return errors.New(trouble(login, err, r.Login))
	}
	r.Asked()
	// From here on the guest has the time that any guest has.
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for the guest: %w", err)
	}
	return errors.Join(run.wait(), ctx.Err())
}

// reach connects to the guest's sshd.
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

// connection is one to the guest as package ssh wants it.
type connection struct{ *os.File }

// LocalAddr implements net.Conn.
func (connection) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements net.Conn.
func (connection) RemoteAddr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "vsock" }
func (address) String() string  { return "guest" }

// newConnection takes a connection over, with ctx's deadline on all that is read
// and written. Only a descriptor that does not block can have one.
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

// command runs in the guest.
type command struct {
	session *ssh.Session
	stderr  firstBytes
}

// start logs in as root and starts a command, which the guest has agreed to when
// it returns.
func start(conn *connection, key guest.Key, line string) (*command, error) {
	signer, err := ssh.NewSignerFromKey(key.Private)
	if err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{
		User: "root",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		// The kernel, or the hypervisor, connects to this guest's address and to
		// nothing else: nobody is in between. A guest's host key may be another
		// one at every boot, and whoever poses as its sshd in there learns no more
		// than that the guest is to go down: a signature is good for one session.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // as said
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

// wait waits for the command to end. A guest that goes down may end its sshd
// before that can say how.
func (c *command) wait() error {
	var failed *ssh.ExitError
	if err := c.session.Wait(); errors.As(err, &failed) && failed.Signal() == "" {
		return fmt.Errorf("the command ended with status %d: %s", failed.ExitStatus(), oneLine(string(c.stderr.data)))
	}
	return nil
}

// refusedKey is in the error of a client that no key of the server's lets in:
// golang.org/x/crypto/ssh, clientAuthenticate in client_auth.go, which has no type for it.
const refusedKey = "ssh: unable to authenticate"

// trouble says in one line why a guest could not be asked.
func trouble(ctx context.Context, err error, limit time.Duration) string {
	text := oneLine(err.Error())
	deadline, _ := ctx.Deadline()
	switch {
	case !time.Now().Before(deadline):
		return fmt.Sprintf("its sshd does not answer within %s", limit)
	case strings.Contains(text, refusedKey):
		return "its sshd refuses the key: it has to let root in by the credential ssh.ephemeral-authorized_keys-all, see AuthorizedKeysFile and PermitRootLogin in its sshd_config"
	}
	return "log in to the guest: " + text
}

// firstBytes keeps the first of what is written to it.
type firstBytes struct{ data []byte }

// Write implements io.Writer.
func (f *firstBytes) Write(p []byte) (int, error) {
	f.data = append(f.data, p[:min(len(p), maxText-len(f.data))]...)
	return len(p), nil
}

// oneLine makes a guest's text one short line that a terminal does not obey.
func oneLine(text string) string {
	return printable.Short(strings.Join(strings.Fields(text), " "), maxText)
}
