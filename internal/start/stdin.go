package start

import (
	"fmt"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
)

// standardInput gives the hypervisor the standard input that its plan asks for:
// one that never ends and never has anything to read. A terminal stays.
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

// holdStdin makes standard input a pipe whose other end this process, and the
// hypervisor after it, holds.
func holdStdin() error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		return fmt.Errorf("make a pipe for standard input: %w", err)
	}
	return replaceStdin(pipe[0])
}

// terminalStdin makes standard input a pseudoterminal whose other end this
// process, and the hypervisor after it, holds: pts(4).
func terminalStdin() error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("make a terminal for standard input: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock the terminal for standard input: %w", err)
	}
	// By the descriptor: the name in /dev/pts may be another instance's here.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		return fmt.Errorf("open the terminal for standard input: %w", errno)
	}
	return replaceStdin(int(slave))
}

func replaceStdin(fd int) error {
	if fd == 0 {
		return nil // it was closed before
	}
	if err := unix.Dup3(fd, 0, 0); err != nil {
		return fmt.Errorf("replace standard input: %w", err)
	}
	return unix.Close(fd)
}
