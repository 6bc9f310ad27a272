package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// shares measures the supervisor of four virtiofs shares: the time until it is ready,
// its memory while it waits, and the time until it and its children have exited.
func shares() {
	const name, tags = "shares", 4
	pkg := filepath.Join("/root/bench", name)
	sh("mkdir -p " + pkg + "/bin " + pkg + "/share/microvm && cp " + assets + "/standin " + pkg + "/bin/microvm-run && echo none > " + pkg + "/share/microvm/hypervisor")
	for i := range tags {
		dir := fmt.Sprintf("%s/share/microvm/virtiofs/s%d", pkg, i)
		sh(fmt.Sprintf("mkdir -p %[1]s && echo s%[2]d > %[1]s/source && echo s%[2]d.sock > %[1]s/socket", dir, i))
	}
	sh("chmod 755 /root; install-microvm -p " + pkg + " " + name + "; /usr/lib/microvm/microvm-set-booted up " + name)
	var pss []int
	var gone []time.Duration
	ready := median(9, func() time.Duration {
		s := supervise(name)
		time.Sleep(time.Second) // until it has released the memory that only its start needs
		pss = append(pss, s.pss())
		gone = append(gone, s.stop())
		return s.ready
	})
	sh("/usr/lib/microvm/microvm-set-booted down " + name)
	fmt.Printf("\nsupervisor of %d virtiofs shares: ready after %s, PSS %d KiB, exited %s after SIGTERM\n",
		tags, strings.TrimSpace(ms(ready)), middle(pss), strings.TrimSpace(ms(middle(gone))))
}

// middle sorts list and returns its median.
func middle[T cmp.Ordered](list []T) T {
	slices.Sort(list)
	return list[len(list)/2]
}

// supervisor is a running microvm-virtiofsd.
type supervisor struct {
	cmd   *exec.Cmd
	ready time.Duration
}

// supervise starts the supervisor of a VM as the service manager does, and waits for
// its READY=1.
func supervise(name string) supervisor {
	socket := "/run/bench-notify"
	_ = os.Remove(socket)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	s := supervisor{cmd: exec.Command("/usr/lib/microvm/microvm-virtiofsd", name)}
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	var said bytes.Buffer
	s.cmd.Stderr = &said
	began := time.Now()
	err = errors.Join(conn.SetReadDeadline(began.Add(30*time.Second)), s.cmd.Start())
	for text := make([]byte, 4096); err == nil; {
		var n int
		if n, err = conn.Read(text); strings.Contains(string(text[:n]), "READY=1") {
			s.ready = time.Since(began)
			return s
		}
	}
	log.Fatalf("microvm-virtiofsd: %v\n%s", err, said.String())
	return s
}

// pss returns the supervisor's proportional set size in KiB, proc_pid_smaps(5).
func (s supervisor) pss() int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.cmd.Process.Pid))
	if err != nil {
		log.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^Pss: +([0-9]+) kB`).FindSubmatch(data)
	if match == nil {
		log.Fatalf("Pss not found in %s", data)
	}
	kib, err := strconv.Atoi(string(match[1]))
	if err != nil {
		log.Fatal(err)
	}
	return kib
}

// stop ends the supervisor with its children, and returns how long that took.
func (s supervisor) stop() time.Duration {
	began := time.Now()
	if err := errors.Join(s.cmd.Process.Signal(syscall.SIGTERM), s.cmd.Wait()); err != nil {
		log.Fatal(err)
	}
	took := time.Since(began)
	if left, err := exec.Command("pgrep", "virtiofsd").Output(); err == nil {
		log.Fatalf("left behind: %s", left)
	}
	return took
}
