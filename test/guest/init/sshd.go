package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sshdProgram is there in the initramfs with SSH only.
const sshdProgram = "/sshd"

// startSSHD runs an SSH server on vsock port 22 for the key that the host handed
// over, where it did: as systemd-ssh-generator(8) does, it listens before anybody
// is told that the guest is up.
func startSSHD() error {
	key := credential("ssh.ephemeral-authorized_keys-all")
	if key == "" {
		return nil
	}
	if _, err := os.Stat(sshdProgram); err != nil {
		say("a key for ssh, and no sshd")
		return nil
	}
	s, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Bind(s, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: 22})
	if err == nil {
		err = unix.Listen(s, 4)
	}
	if err != nil {
		return fmt.Errorf("listen on vsock: %w", err)
	}
	_, err = syscall.ForkExec(sshdProgram, []string{"sshd", key}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2, uintptr(s)}})
	_ = unix.Close(s)
	say("sshd listens on vsock port 22 (%v)", err)
	return err
}
