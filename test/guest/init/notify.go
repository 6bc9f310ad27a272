package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notifyHost says READY=1 where the host told us to, after as many STATUS
// lines as the command line asks for, with so long a pause before each.
func notifyHost() error {
	address := credential("vmm.notify_socket")
	if address == "" {
		say("nobody listens for readiness")
		return nil
	}
	say("notify socket %s", address)
	var connects, rests []time.Duration
	for _, w := range words("notify-count") {
		n, err := strconv.Atoi(w)
		if err != nil {
			return err
		}
		for i := range n {
			for _, pause := range words("notify-pause") {
				d, err := time.ParseDuration(pause)
				if err != nil {
					return err
				}
				time.Sleep(d)
			}
			connect, rest, err := send(address, fmt.Sprintf("STATUS=step %d of %d", i+1, n))
			if err != nil {
				return err
			}
			connects, rests = append(connects, connect), append(rests, rest)
		}
	}
	if len(rests) > 0 {
		slices.Sort(connects)
		slices.Sort(rests)
		half := len(rests) / 2
		say("notify median connect=%dus rest=%dus of %d", connects[half].Microseconds(), rests[half].Microseconds(), len(rests))
	}
	if has("never-ready") {
		_, _, err := send(address, "STATUS=test guest will never be ready")
		return err
	}
	_, _, err := send(address, "READY=1\nSTATUS=test guest is up")
	return err
}

// credential finds a systemd credential on the kernel's command line,
// systemd(1), in fw_cfg or in SMBIOS type 11, systemd's "VM interface".
func credential(name string) string {
	line, _ := os.ReadFile("/proc/cmdline")
	for _, w := range strings.Fields(string(line)) {
		if value, ok := strings.CutPrefix(w, "systemd.set_credential="+name+":"); ok {
			return value
		}
		if value, ok := strings.CutPrefix(w, "systemd.set_credential_binary="+name+":"); ok {
			text, _ := base64.StdEncoding.DecodeString(value)
			return string(text)
		}
	}
	data, err := os.ReadFile("/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/" + name + "/raw")
	if err == nil {
		return strings.TrimRight(string(data), "\x00\n")
	}
	entries, _ := filepath.Glob("/sys/firmware/dmi/entries/11-*/raw")
	for _, e := range entries {
		raw, err := os.ReadFile(e)
		if err != nil || len(raw) < 5 {
			continue
		}
		for _, s := range strings.Split(string(raw[min(int(raw[1]), len(raw)):]), "\x00") {
			if value, ok := strings.CutPrefix(s, "io.systemd.credential:"+name+"="); ok {
				return value
			}
		}
	}
	return ""
}

// send sends one message as systemd does: connect, write, shut down, and wait
// until the other side has closed. It returns how long the connection took to
// make, and how long the rest.
func send(address, message string) (connect, rest time.Duration, err error) {
	parts := strings.Split(address, ":")
	if len(parts) != 3 {
		return 0, 0, fmt.Errorf("address %q is not understood", address)
	}
	cid, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil {
		return 0, 0, err
	}
	port, err := strconv.ParseUint(parts[2], 10, 32)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	s, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = unix.Close(s) }()
	err = uninterrupted(func() error { return unix.Connect(s, &unix.SockaddrVM{CID: uint32(cid), Port: uint32(port)}) })
	if err != nil {
		return 0, 0, fmt.Errorf("connect to %s: %w", address, err)
	}
	connected := time.Now()
	err = uninterrupted(func() error { _, err := unix.Write(s, []byte(message)); return err })
	if err != nil {
		return 0, 0, err
	}
	if err := unix.Shutdown(s, unix.SHUT_WR); err != nil {
		return 0, 0, err
	}
	_ = uninterrupted(func() error { _, err := unix.Read(s, make([]byte, 1)); return err })
	return connected.Sub(began), time.Since(connected), nil
}

// uninterrupted makes a system call again where a signal interrupted it: the
// runtime of Go sends its own threads some, and on an emulated processor a call
// takes long enough to meet one. A connection that was interrupted is closed, and
// can be begun again (net/vmw_vsock/af_vsock.c, vsock_connect).
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
