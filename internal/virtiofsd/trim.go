package virtiofsd

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// trim gives back the memory that only starting needed: the heap, and the
// pages of the program itself, which the kernel reads again from the page
// cache where they are still used. The supervisor stays as long as the VM, and
// waits.
func trim() {
	// Twice: what sync.Pool keeps goes with the second collection.
	runtime.GC()
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range bytes.Lines(maps) {
		dropPages(bytes.Fields(line), exe)
	}
}

// dropPages lets go of a mapping that is the program's and cannot be written,
// proc_pid_maps(5): "START-END PERM OFFSET DEV INODE PATH".
func dropPages(fields [][]byte, exe string) {
	if len(fields) != 6 || string(fields[5]) != exe || bytes.IndexByte(fields[1], 'w') >= 0 {
		return
	}
	from, to, _ := bytes.Cut(fields[0], []byte("-"))
	start, err := strconv.ParseUint(string(from), 16, 64)
	if err != nil {
		return
	}
	end, err := strconv.ParseUint(string(to), 16, 64)
	if err != nil {
		return
	}
	// Advice: the pages are there again when they are needed, and an error
	// only means that they stay.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
}
