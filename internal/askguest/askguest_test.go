package askguest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"microvm/internal/guest"
)

const order = "systemctl poweroff -i || poweroff"

// scripted is the sshd of a guest, behind a hypervisor's vsock multiplexer.
type scripted struct {
	t   *testing.T
	dir string
	// line of authorized_keys that it lets in.
	line string
	// raw, mux and session are its behaviour; raw, if set, replaces SSH.
	raw     func(net.Conn)
	mux     func(net.Conn) bool
	session func(*scripted, ssh.Channel, *ssh.Request)

	mu       sync.Mutex
	commands []string
	user     string
}

func serve(t *testing.T, s *scripted) *scripted {
	t.Helper()
	s.t, s.dir = t, t.TempDir()
	var err error
	if s.line, err = guest.NewKey(filepath.Join(s.dir, "key")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(s.dir, "v.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { s.handle(conn) })
		}
	})
	return s
}

func (s *scripted) handle(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	if s.mux != nil {
		if !s.mux(conn) {
			return
		}
	} else if !greet(conn) {
		return
	}
	if s.raw != nil {
		s.raw(conn)
		return
	}
	s.speak(conn)
}

// greet is the multiplexer's half: CONNECT is answered with OK, as by Cloud Hypervisor
// 54.0 and Firecracker 1.17.0-dev.
func greet(conn net.Conn) bool {
	line := make([]byte, len("CONNECT 22\n"))
	if _, err := io.ReadFull(conn, line); err != nil || string(line) != "CONNECT 22\n" {
		return false
	}
	_, err := fmt.Fprintf(conn, "OK 1073741824\n")
	return err == nil
}

func (s *scripted) speak(conn net.Conn) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		s.t.Error(err)
		return
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		s.t.Error(err)
		return
	}
	allowed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.line))
	if err != nil {
		s.t.Errorf("the key's line %q: %v", s.line, err)
		return
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(who ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), allowed.Marshal()) {
			return nil, errors.New("another key")
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.user = who.User()
		return nil, nil
	}}
	config.AddHostKey(host)
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			s.mu.Lock()
			s.commands = append(s.commands, string(r.Payload[4:]))
			s.mu.Unlock()
			s.session(s, channel, r)
		}
	}
}

// status ends a command with a status and that text.
func status(code byte, words string) func(*scripted, ssh.Channel, *ssh.Request) {
	return func(_ *scripted, c ssh.Channel, r *ssh.Request) {
		_ = r.Reply(true, nil)
		_, _ = io.WriteString(c.Stderr(), words)
		_, _ = c.SendRequest("exit-status", false, []byte{0, 0, 0, code})
		_ = c.Close()
	}
}

func ask(t *testing.T, s *scripted, change ...func(*Request)) (asked bool, took time.Duration, err error) {
	t.Helper()
	r := Request{
		Address: guest.Address{CID: 3, Socket: "v.sock", Dir: s.dir}, Key: "key", Command: order,
		Login: 10 * time.Second, Asked: func() { asked = true },
	}
	for _, c := range change {
		c(&r)
	}
	began := time.Now()
	err = Ask(context.Background(), r)
	return asked, time.Since(began), err
}

func TestAGuestIsAskedOverSSH(t *testing.T) {
	cases := map[string]func(*scripted, ssh.Channel, *ssh.Request){
		"and says that it goes down": status(0, ""),
		"and is gone before it can say so": func(_ *scripted, c ssh.Channel, r *ssh.Request) {
			_ = r.Reply(true, nil)
			_ = c.Close()
		},
		"and writes without end meanwhile": func(_ *scripted, c ssh.Channel, r *ssh.Request) {
			_ = r.Reply(true, nil)
			_, _ = c.Stderr().Write(bytes.Repeat([]byte("x"), 4<<20))
			_, _ = c.Write(bytes.Repeat([]byte("x"), 4<<20))
			_, _ = c.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
			_ = c.Close()
		},
	}
	for name, session := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, &scripted{session: session})
			asked, _, err := ask(t, s)
			if err != nil || !asked {
				t.Errorf("asked: %v, %v", asked, err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.commands) != 1 || s.commands[0] != order || s.user != "root" {
				t.Errorf("as %q it was told %q", s.user, s.commands)
			}
		})
	}
}

// Hostile or broken guests: each attempt ends in time, with an error of one line.
func TestAGuestThatCannotBeAskedCostsNoMoreThanTheTimeForIt(t *testing.T) {
	quick := func(r *Request) { r.Login = time.Second }
	until := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	cases := map[string]struct {
		scripted *scripted
		change   func(*Request)
		want     string
		asked    bool
	}{
		"silent":                {&scripted{raw: until}, quick, "does not answer within 1s", false},
		"silent in multiplexer": {&scripted{mux: func(c net.Conn) bool { until(c); return false }}, quick, "does not answer", false},
		"nobody listens":        {&scripted{mux: func(c net.Conn) bool { _, _ = c.Read(make([]byte, 64)); return false }}, nil, "nothing listens there", false},
		"garbage": {&scripted{raw: func(c net.Conn) {
			_, _ = c.Write(bytes.Repeat([]byte("\x1b[31m\x00garbage"), 4096))
			until(c)
		}}, nil, "log in to the guest: ssh: handshake failed", false},
		"garbage without end": {&scripted{raw: func(c net.Conn) {
			for err := error(nil); err == nil; {
				_, err = c.Write([]byte("not SSH at all\n"))
			}
		}}, nil, "log in to the guest: ssh: handshake failed", false},
		"a version, and garbage": {&scripted{raw: func(c net.Conn) {
			_, _ = c.Write(append([]byte("SSH-2.0-x\r\n"), bytes.Repeat([]byte{0xff}, 4096)...))
			until(c)
		}}, nil, "log in to the guest: ssh", false},
		"a version, and silence": {&scripted{raw: func(c net.Conn) {
			_, _ = c.Write([]byte("SSH-2.0-x\r\n"))
			until(c)
		}}, quick, "does not answer within 1s", false},
		"a version byte by byte": {&scripted{raw: func(c net.Conn) {
			for err := error(nil); err == nil; time.Sleep(50 * time.Millisecond) {
				_, err = c.Write([]byte("S"))
			}
		}}, quick, "does not answer within 1s", false},
		"hung up": {&scripted{raw: func(net.Conn) {}}, nil, "log in to the guest: ssh", false},
		"refuses the command": {&scripted{session: func(_ *scripted, _ ssh.Channel, r *ssh.Request) {
			_ = r.Reply(false, nil)
		}}, nil, "log in to the guest: ssh: command", false},
		"never answers the command": {&scripted{session: func(*scripted, ssh.Channel, *ssh.Request) {
		}}, quick, "does not answer within 1s", false},
		"fails": {&scripted{session: status(1, "Failed to \x1b[31mpower\noff: no")}, nil, `the command exited with status 1: Failed to power off: no`, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, c.scripted)
			if c.change == nil {
				c.change = func(*Request) {}
			}
			asked, took, err := ask(t, s, c.change)
			if err == nil || !strings.Contains(err.Error(), c.want) || asked != c.asked {
				t.Fatalf("asked: %v, %v; want %q", asked, err, c.want)
			}
			if text := err.Error(); strings.ContainsAny(text, "\x1b\x00\n") || len(text) > 2*maxText {
				t.Errorf("what is said is not one short line: %q", text)
			}
			if took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestOnlyTheKeyOfThisStartIsLetIn(t *testing.T) {
	s := serve(t, &scripted{session: status(0, "")})
	s.mu.Lock()
	line, err := guest.NewKey(filepath.Join(t.TempDir(), "other"))
	s.line = line
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if asked, _, err := ask(t, s); asked || err == nil || !strings.Contains(err.Error(), "refuses the key") {
		t.Errorf("asked: %v, %v", asked, err)
	}
}

func TestAGuestThatBootsIsTriedAgain(t *testing.T) {
	var tries int
	var mu sync.Mutex
	s := serve(t, &scripted{session: status(0, ""), mux: func(c net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		tries++
		return tries > 2 && greet(c)
	}})
	asked, _, err := ask(t, s, func(r *Request) { r.Booting = true })
	if err != nil || !asked {
		t.Errorf("asked: %v, %v", asked, err)
	}
}

func TestAskingEndsWithItsContext(t *testing.T) {
	s := serve(t, &scripted{session: func(_ *scripted, _ ssh.Channel, r *ssh.Request) { _ = r.Reply(true, nil) }})
	ctx, cancel := context.WithCancel(context.Background())
	began := time.Now()
	err := Ask(ctx, Request{
		Address: guest.Address{CID: 3, Socket: "v.sock", Dir: s.dir}, Key: "key", Command: order,
		Login: 20 * time.Second, Asked: func() { time.AfterFunc(100*time.Millisecond, cancel) },
	})
	if !errors.Is(err, context.Canceled) || time.Since(began) > time.Minute {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestAKeyThatIsNoneIsRefused(t *testing.T) {
	s := serve(t, &scripted{session: status(0, "")})
	for name, spoil := range map[string]func(path string) error{
		"gone":       func(string) error { return nil },
		"a link":     func(p string) error { return os.Symlink("/etc/hostname", p) },
		"a pipe":     func(p string) error { return mkfifo(p) },
		"empty":      func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"huge":       func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("1"), 1<<20), 0o600) },
		"no key":     func(p string) error { return os.WriteFile(p, []byte("12 AAAA\n"), 0o600) },
		"no base 64": func(p string) error { return os.WriteFile(p, []byte("12 ????\n"), 0o600) },
	} {
		path := filepath.Join(s.dir, "key")
		_ = os.Remove(path)
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		if asked, _, err := ask(t, s); asked || err == nil || !strings.Contains(err.Error(), "read the shutdown key") {
			t.Errorf("%s: asked: %v, %v", name, asked, err)
		}
	}
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
