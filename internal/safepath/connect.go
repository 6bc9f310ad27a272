package safepath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// connectTimeout is how long a connection may take.
const connectTimeout = 10 * time.Second

// ConnectBeneath connects to a Unix socket beneath the directory at dir. kind is its
// type, such as unix.SOCK_STREAM. It follows no link, which could lead to any other
// socket of the host. If the server accepts no connections, it waits until ctx ends,
// and 10 s at most. The caller closes the file.
func ConnectBeneath(ctx context.Context, dir, socket string, kind int) (*os.File, error) {
	file, err := connect(ctx, dir, socket, kind)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(dir, socket), err)
	}
	return file, nil
}

// DialBeneath is like ConnectBeneath, but returns a net.UnixConn.
func DialBeneath(ctx context.Context, dir, socket string, kind int) (*net.UnixConn, error) {
	file, err := ConnectBeneath(ctx, dir, socket, kind)
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(file) // has a descriptor of its own
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(dir, socket), err)
	}
	return conn.(*net.UnixConn), nil
}

func connect(ctx context.Context, dir, socket string, kind int) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer Close(root)
	found, err := OpenBeneath(root, socket, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer Close(found)
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// If the queue of connections is full, connect(2) waits for the send timeout.
	timeout := unix.NsecToTimeval(within(ctx).Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout)
	if err == nil {
		// The path in /proc leads to the open file whatever is renamed, and always fits
		// into an address, unix(7).
		err = retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: ProcPath(found)}) })
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{})
	}
	if err != nil {
		Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), socket), nil
}

// within returns how long a connection may take.
func within(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return connectTimeout
	}
	// Not 0, which means no limit, socket(7).
	return min(connectTimeout, max(time.Until(deadline), time.Millisecond))
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
