package start

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
)

// growing is the mark of a growth that was cut off, or "".
func (w *volumeWork) growing() string {
	for _, mark := range w.marks() {
		if exists(mark) {
			return mark
		}
	}
	return ""
}

// marks are where the mark of a growth may be: beside the image, or where that
// directory cannot be written, in the state directory.
func (w *volumeWork) marks() []string {
	abs, err := filepath.Abs(w.path)
	if err != nil {
		abs = w.path
	}
	sum := sha256.Sum256([]byte(abs))
	return []string{beside(w.path, volumeGrowing), filepath.Join(w.dir, volumeGrowing+hex.EncodeToString(sum[:8]))}
}

// mark leaves the mark of a growth.
func (w *volumeWork) mark() error {
	if w.growing() != "" {
		return nil
	}
	var errs error
	for _, mark := range w.marks() {
		err := os.WriteFile(mark, nil, 0o600)
		if err == nil {
			return syncDir(filepath.Dir(mark))
		}
		errs = errors.Join(errs, fmt.Errorf("grow the image: %w", err))
	}
	err := explain(w.path, errs)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return exit.WithHint(exit.Config(err), "let the hypervisors' user write to %s, or grow the image yourself", filepath.Dir(w.path))
	}
	return err
}

// unmark takes the mark away. One that stays has the file system checked again,
// which does no harm.
func (w *volumeWork) unmark() {
	for _, mark := range w.marks() {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) && exists(mark) {
			w.logf("%w", exit.WithHint(fmt.Errorf("warning: %w; the next start checks the file system again", err), "rm %s", mark))
		}
	}
}

// grow enlarges an image and an ext file system in it. Others grow mounted,
// which is the guest's to do. A mark makes the next start go on where this one
// is cut off.
func (w *volumeWork) grow(size int64) error {
	ext, err := holdsExt(w.image.file)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(w.v.FSType, "ext") || !ext {
		return w.enlarge(size)
	}
	fsck, err := findProgram("e2fsck")
	if err != nil {
		return exit.Configf("e2fsck is not installed; on Debian it is in package e2fsprogs")
	}
	resize, err := findProgram("resize2fs")
	if err != nil {
		return exit.Configf("resize2fs is not installed; on Debian it is in package e2fsprogs")
	}
	if err := w.mark(); err != nil {
		return err
	}
	if err := w.enlarge(size); err != nil {
		return err
	}
	var ended *exec.ExitError
	// 1 says that errors were corrected, e2fsck(8).
	if err := run(fsck, "-f", "-p", w.path); err != nil && (!errors.As(err, &ended) || ended.ExitCode() != 1) {
		return explain(w.path, fmt.Errorf("grow the file system: %w; repair it by hand with: e2fsck -f %s", err, w.path))
	}
	if err := run(resize, w.path); err != nil {
		return explain(w.path, fmt.Errorf("grow the file system: %w", err))
	}
	w.unmark()
	return nil
}

// holdsExt says whether there is an ext file system in an image: the guest may
// have made another since. The magic number is in the super block, see
// Documentation/filesystems/ext4 of the kernel.
func holdsExt(r io.ReaderAt) (bool, error) {
	magic, err := readAt(r, 1024+0x38, 2)
	return string(magic) == "\x53\xef", err
}

func (w *volumeWork) enlarge(size int64) error {
	if err := w.image.file.Truncate(size); err != nil {
		return explain(w.path, fmt.Errorf("grow the image: %w", err))
	}
	return nil
}
