// Command sshd is the test guest's SSH server: it takes connections from
// descriptor 3, lets in the key that is its one argument, a line of
// authorized_keys, and has PID 1 go down when it is told to. It is a program of
// its own because most boots do without it.
package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"microvm/test/guest/sshserver"
)

func main() {
	for {
		fd, _, err := unix.Accept4(3, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == unix.EINTR {
			continue // a signal of Go's runtime
		}
		if err != nil {
			fmt.Println("mvguest: FAILED: sshd:", err)
			return
		}
		go func() {
			conn := connection{os.NewFile(uintptr(fd), "vsock")}
			err := sshserver.Serve(conn, os.Args[1], run)
			fmt.Println("mvguest: sshd: a connection ended:", err)
			_ = conn.Close()
		}()
	}
}

func run(command string) int {
	fmt.Printf("mvguest: sshd: told to run %q\n", command)
	var down syscall.Signal
	switch {
	case strings.HasPrefix(command, "systemctl poweroff"):
		down = syscall.SIGPWR
	case strings.HasPrefix(command, "systemctl reboot"):
		down = syscall.SIGINT
	default:
		return 127
	}
	// As under systemd, the answer may still get out.
	time.AfterFunc(100*time.Millisecond, func() { _ = syscall.Kill(1, down) })
	return 0
}

// connection has the addresses that package ssh asks for.
type connection struct{ *os.File }

func (connection) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "vsock"} }
func (connection) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "vsock"} }
