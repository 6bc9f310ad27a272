package start

import (
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
)

// standardInput gives the hypervisor the standard input that its plan asks for: one
// that never ends and never has data. A terminal is kept.
func standardInput(plan *hypervisor.Plan) error {
	if !plan.HoldStdin && !plan.TerminalStdin {
		return nil
	}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		return nil
	}
	if plan.TerminalStdin {
		return terminalStdin()
	}
	return holdStdin()
}

// holdStdin makes standard input a pipe whose other end stays open in this process,
// and in the hypervisor after it.
func holdStdin() error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		return fmt.Errorf("create a pipe for standard input: %w", err)
	}
	return replaceStdin(pipe[0])
}

// terminalStdin makes standard input a pseudoterminal, pts(4), whose other end stays
// open in this process, and in the hypervisor after it.
func terminalStdin() error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("create a pseudoterminal for standard input: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock the pseudoterminal for standard input: %w", err)
	}
	// By the descriptor: the path in /dev/pts may belong to another instance of devpts.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		return fmt.Errorf("open the pseudoterminal for standard input: %w", errno)
	}
	return replaceStdin(int(slave))
}

func replaceStdin(fd int) error {
	if fd == 0 {
		return nil // standard input was closed before
	}
	if err := unix.Dup3(fd, 0, 0); err != nil {
		return fmt.Errorf("replace standard input: %w", err)
	}
	return unix.Close(fd)
}
