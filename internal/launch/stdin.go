package launch

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// holdStdin makes standard input a pipe whose other end this process, and the
// hypervisor after it, holds: it never ends and never has anything to read. A
// terminal stays.
func holdStdin() error {
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		return nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		return fmt.Errorf("make a pipe for standard input: %w", err)
	}
	if pipe[0] == 0 {
		return nil // it was closed before
	}
	if err := unix.Dup3(pipe[0], 0, 0); err != nil {
		return fmt.Errorf("replace standard input: %w", err)
	}
	return unix.Close(pipe[0])
}
