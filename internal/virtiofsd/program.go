package virtiofsd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// places are where distributions put virtiofsd when it is not in PATH: Debian,
// Fedora and openSUSE; Arch; Alpine and Debian 12, whose own is the old one;
// NixOS.
var places = []string{
	"/usr/libexec/virtiofsd",
	"/usr/lib/virtiofsd",
	"/usr/lib/virtiofsd/virtiofsd",
	"/usr/lib/qemu/virtiofsd",
	"/usr/local/libexec/virtiofsd",
	"/run/current-system/sw/bin/virtiofsd",
}

// installHint says where to get the program.
const installHint = "install the package virtiofsd of your distribution, 1.8 or newer, or name its path in virtiofsd.package"

// probeTimeout bounds a program that should answer at once.
const probeTimeout = 5 * time.Second

// program is a virtiofsd that can be used.
type program struct {
	path string
	// readonly, tag and translate say which options it has: 1.8 has none of them.
	readonly, tag, translate bool
}

// errOldC is what the virtiofsd that was part of QEMU until version 8 is
// refused with: it knows neither --fd nor --modcaps in our spelling.
var errOldC = errors.New("this is the old virtiofsd written in C that came with QEMU until version 8")

// findProgram returns the virtiofsd at path, or the first usable one of the
// host where path is empty.
func findProgram(path string) (*program, error) {
	if path != "" {
		p, err := probe(path)
		if err != nil {
			return nil, fmt.Errorf("use virtiofsd %q: %w; %s", path, err, installHint)
		}
		return p, nil
	}
	var faults []string
	for _, candidate := range candidates() {
		p, err := probe(candidate)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Sprintf("%s: %v", candidate, err))
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("no usable virtiofsd: %s; %s", strings.Join(faults, "; "), installHint)
	}
	return nil, fmt.Errorf("virtiofsd is neither in PATH nor at %s; %s", strings.Join(places, ", "), installHint)
}

// candidates are the absolute paths to try.
func candidates() []string {
	var paths []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			paths = append(paths, filepath.Join(dir, "virtiofsd"))
		}
	}
	return append(paths, places...)
}

// probe checks that root may execute the program and asks it what it can do.
// Its help text says that better than a table of versions would: distributions
// carry options back.
func probe(path string) (*program, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("the path is relative, and root runs nothing that is found by chance; name it from / on")
	}
	if err := checkProgram(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--help") //nolint:gosec // checkProgram: it is root's
	cmd.Env = []string{}
	help, err := cmd.CombinedOutput()
	if bytes.Contains(help, []byte("-o cache=<mode>")) {
		return nil, errOldC
	}
	if err != nil {
		return nil, fmt.Errorf("ask for its options: %w", err)
	}
	has := func(option string) bool { return bytes.Contains(help, []byte(option)) }
	if !has("--shared-dir") || !has("--fd") || !has("--modcaps") {
		return nil, errors.New("its help names no --shared-dir, --fd and --modcaps, so this is no virtiofsd we know")
	}
	return &program{path: path, readonly: has("--readonly"), tag: has("--tag"), translate: has("--translate-uid")}, nil
}

// checkProgram makes sure that nobody but root can change what the path leads
// to: every directory and link on the way, and the file itself.
func checkProgram(path string) error {
	at := "/"
	todo := strings.Split(filepath.Clean(path), "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == "" {
			continue
		}
		// A ".." of a link is resolved on a path that has no links left.
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			return err
		}
		if err := rootOnly(next, info); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%s: %w", path, unix.ELOOP)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s is no program", at)
	}
	return nil
}

// rootOnly refuses what somebody other than root could replace or change. A
// sticky directory passes, as /nix/store is one: what root owns in it stays.
func rootOnly(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner known", path)
	}
	if st.Uid != 0 {
		return fmt.Errorf("%s belongs to user %d, and root executes only what is root's; change its owner", path, st.Uid)
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o022 != 0 && !sticky {
		return fmt.Errorf("%s is writable by others than root; take that away with chmod go-w", path)
	}
	return nil
}
