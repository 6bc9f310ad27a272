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

	"microvm/internal/foreign"
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
	if err := foreign.OnlyRoots(path); err != nil {
		return nil, err
	}
	// Root will serve with it, so root may ask it.
	cmd := foreign.Command{Path: path, Args: []string{"--help"}, Limit: probeTimeout}
	out, log, err := cmd.Run(context.Background())
	help := slices.Concat(out, log)
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
