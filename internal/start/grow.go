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

// growing returns the mark of a growth that was interrupted, or "".
func (w *volumeWork) growing() string {
	for _, mark := range w.marks() {
		if exists(mark) {
			return mark
		}
	}
	return ""
}

// marks returns the paths that the mark of a growth may have: next to the image,
// or, where that directory is not writable, in the state directory.
func (w *volumeWork) marks() []string {
	abs, err := filepath.Abs(w.path)
	if err != nil {
		abs = w.path
	}
	sum := sha256.Sum256([]byte(abs))
	return []string{beside(w.path, volumeGrowing), filepath.Join(w.dir, volumeGrowing+hex.EncodeToString(sum[:8]))}
}

// mark creates the mark of a growth, unless there is one.
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

// unmark removes the mark. If that fails, the next start checks the file system
// again, which does no harm.
func (w *volumeWork) unmark() {
	for _, mark := range w.marks() {
		if err := os.Remove(mark); err != nil && !errors.Is(err, fs.ErrNotExist) && exists(mark) {
			w.logf("%w", exit.WithHint(fmt.Errorf("warning: the next start checks the file system again: %w", err), "rm %s", mark))
		}
	}
}

// grow enlarges an image and the ext file system in it. Other file systems grow
// while mounted, which is up to the guest. A mark makes the next start continue
// where this one was interrupted.
func (w *volumeWork) grow(size int64) error {
	ext, err := holdsExt(w.image.file)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(w.v.FSType, "ext") || !ext {
		return w.enlarge(size)
	}
	fsck, err := findTool("e2fsck", "e2fsprogs")
	if err != nil {
		return err
	}
	resize, err := findTool("resize2fs", "e2fsprogs")
	if err != nil {
		return err
	}
	if err := w.mark(); err != nil {
		return err
	}
	if err := w.enlarge(size); err != nil {
		return err
	}
	var ended *exec.ExitError
	// Exit code 1 means that errors were corrected, e2fsck(8).
	if err := run(fsck, "-f", "-p", w.path); err != nil && (!errors.As(err, &ended) || ended.ExitCode() != 1) {
		return exit.WithHint(explain(w.path, fmt.Errorf("grow the file system: %w", err)), "repair it manually with: e2fsck -f %s", w.path)
	}
	if err := run(resize, w.path); err != nil {
		return explain(w.path, fmt.Errorf("grow the file system: %w", err))
	}
	w.unmark()
	return nil
}

// holdsExt reports whether an image contains an ext file system: the guest may have
// created another one since. The magic number is in the superblock, see
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
