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

// accessLimit is how long a file system may take to answer.
const accessLimit = 5 * time.Second

// accessAs says why an account, with all its groups, may not do with a file what
// mode says, access(2); empty where it may. The kernel decides, so that access
// lists and what is mounted read-only count as well. Who is not root and not the
// account can only look at modes.
func accessAs(a account.Account, path string, mode uint32) string {
	answer := make(chan string, 1)
	go func() {
		// Never unlocked: the thread, and what it became, end with this goroutine.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := becomeOnThread(a); err != nil {
				answer <- fmt.Sprintf("%s: look as user %d: %v", path, a.UID, err)
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
		return path + " does not answer; is it on a file system whose server is away?"
	}
}

// becomeOnThread takes the account's rights to files for the calling thread, and
// root's from it: without a user id of 0 for files, CAP_DAC_OVERRIDE and its like
// are gone, capabilities(7). The package os has these calls for all threads only.
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

// noAccess says why the calling thread may not do that with a file.
func noAccess(path string, mode uint32) string {
	real, err := filepath.EvalSymlinks(path)
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrPermission) && errors.As(err, &at):
		return fmt.Sprintf("%s: directory %s keeps the hypervisors' user out", path, filepath.Dir(at.Path))
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
		return path + " may not be executed by the hypervisors' user"
	case mode&unix.W_OK != 0:
		return path + " may not be written by the hypervisors' user"
	}
	return path + " may not be read by the hypervisors' user"
}

// unreadable says why a user cannot read a file, by the modes of the file and
// the directories on the way; empty where nothing is in the way.
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
			return fmt.Sprintf("%s: directory %s keeps the hypervisors' user out", path, at)
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
		return fmt.Sprintf("%s may not be read by the hypervisors' user", path)
	}
	return ""
}
