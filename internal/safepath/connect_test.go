package safepath

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestConnectionsFollowNothing(t *testing.T) {
	w := newWorld(t)
	w.fill()
	theirs := listen(t, w.outside+"/socket", unix.SOCK_STREAM)
	w.sh("ln -s ../outside/socket inside/led; ln -s socket inside/own")
	for name, want := range map[string]error{
		"led": unix.ELOOP, "own": unix.ELOOP, "to-outside/socket": unix.ELOOP, "to-absolute/socket": unix.ELOOP, "loop": unix.ELOOP,
		"../outside/socket": unix.EXDEV, w.outside + "/socket": unix.EXDEV,
		"missing": unix.ENOENT, "file/x": unix.ENOTDIR, long: unix.ENAMETOOLONG,
		"file": unix.ECONNREFUSED, "pipe": unix.ECONNREFUSED, "device": unix.ECONNREFUSED, "sub": unix.ECONNREFUSED,
		"socket": nil,
	} {
		inTime(t, name, func() {
			closes(t, func() {
				f, err := ConnectBeneath(t.Context(), w.inside, name, unix.SOCK_STREAM)
				mustBe(t, name, err, want)
				if err == nil {
					_ = f.Close()
				}
			})
		})
	}
	if !quiet(t, theirs) {
		t.Error("a connection was made to the socket outside")
	}
	_, err := ConnectBeneath(t.Context(), w.inside+"/to-outside", "socket", unix.SOCK_STREAM)
	mustBe(t, "in a directory that is a link", err, unix.ENOTDIR)
	_, err = ConnectBeneath(t.Context(), w.inside, "socket", unix.SOCK_SEQPACKET)
	mustBe(t, "of another type", err, unix.EPROTOTYPE)
	_, err = ConnectBeneath(t.Context(), w.inside, "socket", 99)
	mustBe(t, "of no type", err, unix.EINVAL)
}

// TestAConnectionTakesTheTimeItHas even if the server's queue is full.
func TestAConnectionTakesTheTimeItHas(t *testing.T) {
	w := newWorld(t)
	listen(t, w.inside+"/socket", unix.SOCK_STREAM)
	connect := func(ctx context.Context) error {
		c, err := DialBeneath(ctx, w.inside, "socket", unix.SOCK_STREAM)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return err
	}
	var err error
	began := time.Now()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err = errors.Join(err, connect(ctx))
		cancel()
	}
	mustBe(t, "with a full queue", err, unix.EAGAIN)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mustBe(t, "too late", connect(ctx), context.Canceled)
	if limit := within(t.Context()); limit != connectTimeout {
		t.Errorf("without a deadline it takes %s", limit)
	}
	if err := os.Remove(w.inside + "/socket"); err != nil {
		t.Fatal(err)
	}
	mustBe(t, "a socket that is gone", connect(t.Context()), unix.ENOENT)
}

func TestADialledConnectionIsToTheSocket(t *testing.T) {
	w := newWorld(t)
	fd := listen(t, w.inside+"/socket", unix.SOCK_SEQPACKET)
	closes(t, func() {
		conn, err := DialBeneath(t.Context(), w.inside, "socket", unix.SOCK_SEQPACKET)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	if quiet(t, fd) {
		t.Error("there was no connection to the socket")
	}
}
