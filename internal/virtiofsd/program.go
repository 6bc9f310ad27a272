package virtiofsd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"microvm/internal/exit"
	"microvm/internal/foreign"
)

// places are the paths at which distributions install virtiofsd outside PATH:
// Debian, Fedora and openSUSE; Arch; Alpine; Debian 12, whose own virtiofsd is the
// old one of QEMU; a local installation; NixOS.
var places = []string{
	"/usr/libexec/virtiofsd",
	"/usr/lib/virtiofsd",
	"/usr/lib/virtiofsd/virtiofsd",
	"/usr/lib/qemu/virtiofsd",
	"/usr/local/libexec/virtiofsd",
	"/run/current-system/sw/bin/virtiofsd",
}

const installHint = "install virtiofsd 1.8 or newer, or set virtiofsd.package"

// probeTimeout limits how long virtiofsd --help may take.
const probeTimeout = 5 * time.Second

// program is a virtiofsd that can be used.
type program struct {
	path string
	// readonly, tag and translate report whether it has --readonly, --tag and
	// --translate-uid; 1.8 has none of them.
	readonly, tag, translate bool
}

// errOldC is the error for the virtiofsd that was part of QEMU before 8.0. It has
// neither --fd nor --modcaps in the form that is used here.
var errOldC = errors.New("the virtiofsd of QEMU 7 and older, written in C, is not supported")

// findProgram returns the virtiofsd at path or, if path is empty, the first usable
// one of the host.
func findProgram(path string) (*program, error) {
	if path != "" {
		p, err := probe(path)
		if err != nil {
			return nil, exit.WithHint(fmt.Errorf("use virtiofsd %q: %w", path, err), installHint)
		}
		return p, nil
	}
	var faults []string
	hint := installHint
	for _, candidate := range candidates() {
		p, err := probe(candidate)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Sprintf("%s: %v", candidate, err))
			if h := exit.Hint(err); h != "" {
				hint = h
			}
		}
	}
	if len(faults) > 0 {
		return nil, exit.WithHint(fmt.Errorf("no usable virtiofsd: %s", strings.Join(faults, "; ")), "%s", hint)
	}
	return nil, exit.WithHint(errors.New("virtiofsd not found in PATH or where distributions install it"), installHint)
}

// candidates returns the absolute paths at which virtiofsd is looked for.
func candidates() []string {
	var paths []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			paths = append(paths, filepath.Join(dir, "virtiofsd"))
		}
	}
	return append(paths, places...)
}

// probe checks that only root can change the program at path, and reads its options
// from its help text. A table of versions would be wrong where a distribution has
// backported an option.
func probe(path string) (*program, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("path must be absolute")
	}
	if err := foreign.OnlyRoots(path); err != nil {
		return nil, err
	}
	// It runs as root: virtiofsd is going to run as root anyway.
	cmd := foreign.Command{Path: path, Args: []string{"--help"}, Limit: probeTimeout}
	out, log, err := cmd.Run(context.Background())
	help := slices.Concat(out, log)
	if bytes.Contains(help, []byte("-o cache=<mode>")) {
		return nil, errOldC
	}
	if err != nil {
		return nil, fmt.Errorf("run it with --help: %w", err)
	}
	has := func(option string) bool { return bytes.Contains(help, []byte(option)) }
	if !has("--shared-dir") || !has("--fd") || !has("--modcaps") {
		return nil, errors.New("not a supported virtiofsd: --help does not list --shared-dir, --fd and --modcaps")
	}
	return &program{path: path, readonly: has("--readonly"), tag: has("--tag"), translate: has("--translate-uid")}, nil
}
