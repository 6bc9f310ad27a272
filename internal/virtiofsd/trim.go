package virtiofsd

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// trim releases memory that is needed only at the start: free heap, and the pages of
// the program itself, which the kernel maps again from the page cache on demand. The
// supervisor then waits for as long as the VM runs.
func trim() {
	// Objects in a sync.Pool are freed only by the second collection.
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

// dropPages releases the pages of a mapping if it is a read-only mapping of exe. fields
// is a line of proc_pid_maps(5): "START-END PERM OFFSET DEV INODE PATH".
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
	// Errors are ignored: the pages then stay in memory.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
}
