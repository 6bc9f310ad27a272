package stop

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/guest"
	"microvm/internal/hypervisor"
)

// The test program plays the hypervisors that are to be stopped.
const (
	roleQMP      = "STOP_TEST_QMP"      // be a hypervisor with this QMP behaviour
	roleKey      = "STOP_TEST_KEY"      // be one with a key, whose line is written here
	roleListener = "STOP_TEST_LISTENER" // listen on descriptor 3 and be gone
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(roleListener) != "":
		os.Exit(beListener())
	case os.Getenv(roleQMP) != "":
		os.Exit(serveQMP(os.Getenv(roleQMP)))
	case os.Getenv(roleKey) != "":
		os.Exit(haveKey(os.Getenv(roleKey)))
	}
	os.Exit(m.Run())
}

// beListener listens on the socket that is descriptor 3, and exits.
func beListener() int {
	if err := unix.Listen(3, 1); err != nil {
		return 1
	}
	return 0
}

// serveQMP is a hypervisor whose guest goes down at the second request, after the time
// in behaviour. It speaks as QEMU 7.2.22 did on
// 2026-11-26, whose event of a request comes before the answer to it.
func serveQMP(behaviour string) int {
	signal.Ignore(syscall.SIGTERM)
	takes, err := time.ParseDuration(behaviour)
	if err != nil {
		return 1
	}
	l, err := net.Listen("unix", "qmp.sock")
	if err != nil {
		return 1
	}
	for requests := 0; ; {
		conn, err := l.Accept()
		if err != nil {
			return 1
		}
		_, _ = fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}`)
		for in := bufio.NewScanner(conn); in.Scan(); {
			if strings.Contains(in.Text(), "send-key") || strings.Contains(in.Text(), "system_powerdown") {
				requests++
			}
			if strings.Contains(in.Text(), "system_powerdown") {
				_, _ = fmt.Fprintln(conn, `{"timestamp": {"seconds": 1795653043, "microseconds": 226545}, "event": "POWERDOWN"}`)
			}
			_, _ = fmt.Fprintln(conn, `{"return": {}}`)
			if requests == 2 {
				_, _ = fmt.Fprintln(conn, `{"timestamp": {"seconds": 1795653043, "microseconds": 528562}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`)
				time.Sleep(takes)
				if err := os.WriteFile("synced", nil, 0o600); err != nil {
					return 1
				}
				return 0
			}
		}
	}
}

// haveKey is a hypervisor with the key of a start, whose public key it writes to file.
// Only a signal ends it.
func haveKey(file string) int {
	line, err := guest.NewKey(hypervisor.ShutdownKeyFile)
	if err != nil {
		return 1
	}
	if err := os.WriteFile(file+".new", []byte(line), 0o600); err != nil {
		return 1
	}
	if err := os.Rename(file+".new", file); err != nil {
		return 1
	}
	for {
		time.Sleep(time.Hour) // an empty select is a deadlock to Go's runtime
	}
}

// self returns the path of this program, for the hypervisor of a plan.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
