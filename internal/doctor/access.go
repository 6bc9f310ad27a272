package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"microvm/internal/account"
)

// accessLimit is the time after which a file system is reported as not responding.
const accessLimit = 5 * time.Second

// accessAs returns why an account, with all its groups, does not have the access mode to
// a file, access(2), or "" if it has. The kernel decides, so access control lists and
// read-only mounts count, too. A caller who is neither root nor the account can only
// check the file modes, for reading.
func accessAs(a account.Account, path string, mode uint32) string {
	answer := make(chan string, 1)
	go func() {
		// Never unlocked: the thread and its credentials end with this goroutine.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := becomeOnThread(a); err != nil {
				answer <- fmt.Sprintf("check %s as uid %d: %v", path, a.UID, err)
				return
			}
		} else if os.Geteuid() != a.UID {
			answer <- unreadable(path, a.UID, a.All())
			return
		}
		answer <- noAccess(path, mode)
	}()
	select {
	case why := <-answer:
		return why
	case <-time.After(accessLimit):
		return path + " does not respond, its file server may be down"
	}
}

// becomeOnThread gives the calling thread the account's file access, and drops that of
// root: if the file system user id is not 0, the kernel clears CAP_DAC_OVERRIDE and
// similar capabilities, capabilities(7). The package syscall has these calls only for all
// threads of a process.
func becomeOnThread(a account.Account) error {
	ids := a.Credential().Groups
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(ids)), uintptr(unsafe.Pointer(unsafe.SliceData(ids))), 0); errno != 0 {
		return errno
	}
	runtime.KeepAlive(ids)
	if err := unix.Setfsgid(a.GID); err != nil {
		return err
	}
	return unix.Setfsuid(a.UID)
}

// noAccess returns why the calling thread does not have the access mode to a file, or ""
// if it has.
func noAccess(path string, mode uint32) string {
	real, err := filepath.EvalSymlinks(path)
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrPermission) && errors.As(err, &at):
		return fmt.Sprintf("%s: directory %s is not searchable by the hypervisors' user", path, filepath.Dir(at.Path))
	case errors.Is(err, fs.ErrNotExist):
		return path + " not found"
	case err != nil:
		return err.Error()
	}
	err = unix.Faccessat2(unix.AT_FDCWD, real, mode, unix.AT_EACCESS)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, unix.EROFS):
		return path + " is on a read-only file system"
	case !errors.Is(err, unix.EACCES):
		return fmt.Sprintf("%s: %v", path, err)
	case mode&unix.X_OK != 0:
		return path + " is not executable by the hypervisors' user"
	case mode&unix.W_OK != 0:
		return path + " is not writable by the hypervisors' user"
	}
	return path + " is not readable by the hypervisors' user"
}

// unreadable returns why a user cannot read a file, by the modes of the file and of the
// directories above it, or "" if they allow it.
func unreadable(path string, uid int, gids []int) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err.Error()
	}
	for at := filepath.Dir(real); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err.Error()
		}
		if !allows(info, uid, gids, 0o1) {
			return fmt.Sprintf("%s: directory %s is not searchable by the hypervisors' user", path, at)
		}
		if at == "/" {
			break
		}
	}
	info, err := os.Stat(real)
	if err != nil {
		return err.Error()
	}
	if !allows(info, uid, gids, 0o4) {
		return path + " is not readable by the hypervisors' user"
	}
	return ""
}
