package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"microvm/internal/durable"
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/kernel"
	"microvm/internal/shell"
	"microvm/internal/spec"
	"microvm/internal/unit"
)

// Options of a build.
type Options struct {
	// LibexecDir is the directory of the helper programs, for the scripts in bin.
	LibexecDir string
	// BinDir is the directory of the microvm command, for the scripts in bin.
	BinDir string
	// At is the final path of the package, for copies of its scripts elsewhere; empty if
	// it is not known.
	At string
	// Path is appended to PATH of the programs that bin/microvm-run starts.
	Path string
}

// Build compiles s and writes its runner package to dst. The package is written to a
// temporary directory next to dst and renamed, so dst is the old package or the new one at
// any time. The same spec and options give the same bytes.
func Build(b *hypervisor.Builder, s *spec.Spec, dst string, o Options) (*hypervisor.Plan, error) {
	plan, err := b.Compile(s)
	if err != nil {
		return nil, err
	}
	if err := replaceable(dst); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dst)), ".microvm-build-")
	if err != nil {
		return nil, fmt.Errorf("create a directory next to %s: %w", dst, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	tree, err := contents(plan, o)
	if err != nil {
		return nil, err
	}
	if plan.Vmlinux != "" {
		image, err := kernel.ELF(plan.Vmlinux)
		if err != nil {
			return nil, err
		}
		tree.files[hypervisor.VmlinuxFile] = file{string(image), 0o444}
	}
	if err := tree.write(tmp); err != nil {
		return nil, fmt.Errorf("write runner package %s: %w", dst, err)
	}
	if err := durable.Tree(tmp); err != nil {
		return nil, fmt.Errorf("write runner package %s: %w", dst, err)
	}
	if err := swap(tmp, dst); err != nil {
		return nil, fmt.Errorf("put runner package at %s: %w", dst, err)
	}
	return plan, nil
}

// replaceable returns an error if dst exists and is not a runner package.
func replaceable(dst string) error {
	info, err := os.Lstat(dst)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write runner package: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dst, hypervisorFile)); err != nil || !info.IsDir() {
		return exit.WithHint(fmt.Errorf("%s already exists and is not a runner package", dst), "choose another name, or remove it")
	}
	return nil
}

// swap renames tmp to dst. An old dst gets tmp's name, and is removed with it.
func swap(tmp, dst string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dst, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dst, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return err
	}
	// Before the old one is removed.
	return durable.Dir(filepath.Dir(dst))
}

// tree is a package in memory: files by path, with their modes, and links.
type tree struct {
	files map[string]file
	links map[string]string
}

type file struct {
	content string
	mode    fs.FileMode
}

func (t *tree) text(path string, lines ...string) {
	if len(lines) > 0 {
		t.files[path] = file{strings.Join(lines, "\n") + "\n", 0o444}
	}
}

// shebang is the first line of every script.
const shebang = "#!/bin/sh\n"

func (t *tree) script(name string, lines ...string) {
	t.files["bin/"+name] = file{shebang + strings.Join(lines, "\n") + "\n", 0o555}
}

// write writes the tree to root, with the same modes for every umask.
func (t *tree) write(root string) error {
	dirs := map[string]bool{".": true}
	for path := range t.files {
		for d := filepath.Dir(path); !dirs[d]; d = filepath.Dir(d) {
			dirs[d] = true
		}
	}
	for _, d := range slices.Sorted(maps.Keys(dirs)) {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(t.files)) {
		f := t.files[path]
		name := filepath.Join(root, path)
		if err := os.WriteFile(name, []byte(f.content), f.mode); err != nil {
			return err
		}
		if err := os.Chmod(name, f.mode); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(t.links)) {
		if err := os.Symlink(t.links[path], filepath.Join(root, path)); err != nil {
			return err
		}
	}
	return nil
}

// contents returns the files of the package, and adds the digests of its programs to the
// plan.
func contents(p *hypervisor.Plan, o Options) (*tree, error) {
	t := &tree{files: map[string]file{}, links: map[string]string{}}
	t.scripts(p, o)
	if err := t.ownScripts(p.Scripts); err != nil {
		return nil, err
	}
	p.Programs = map[string]string{}
	for _, program := range replaceablePrograms {
		if f, ok := t.files[program]; ok {
			p.Programs[program] = digest([]byte(f.content))
		}
	}
	plan, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the plan: %w", err)
	}
	if len(plan) >= maxFile {
		return nil, exit.WithHint(fmt.Errorf("the plan must be smaller than %d bytes, not %d", maxFile, len(plan)),
			"move long texts of the spec, such as binScripts, into separate files")
	}
	t.text(planFile, string(plan))
	t.text(hypervisorFile, p.Hypervisor)
	if p.VsockCID != nil {
		t.text(vsockFile, strconv.FormatInt(*p.VsockCID, 10))
	}
	if p.System != "" {
		t.links[systemLink] = p.System
	}
	t.devices(p)
	return t, nil
}

// replaceablePrograms are the programs of a package that a user may replace.
var replaceablePrograms = []string{RunProgram, ShutdownProgram}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func (t *tree) devices(p *hypervisor.Plan) {
	var taps, macvtaps, pci []string
	flags := []string{"vnet_hdr"}
	for _, tap := range p.Taps {
		taps = append(taps, tap.ID)
		if tap.MultiQueue && !slices.Contains(flags, "multi_queue") {
			flags = append(flags, "multi_queue")
		}
	}
	for _, m := range p.Macvtaps {
		macvtaps = append(macvtaps, strings.Join([]string{m.ID, m.MAC, m.Link, m.Mode}, " "))
	}
	for _, d := range p.PCI {
		pci = append(pci, d.Address)
	}
	t.text(tapFile, taps...)
	if len(taps) > 0 {
		t.text(tapFlagsFile, flags...)
	}
	t.text(macvtapFile, macvtaps...)
	t.text(pciFile, pci...)
	t.text(usbFile, p.USB...)
	for _, share := range p.Shares {
		t.text(filepath.Join(virtiofsDir, share.Tag, "source"), share.Source)
		t.text(filepath.Join(virtiofsDir, share.Tag, "socket"), share.Socket)
	}
}

// scripts adds the programs for hosts that run a package's programs. Our own units run
// none of them.
func (t *tree) scripts(p *hypervisor.Plan, o Options) {
	// A script finds its package by its own path; a copy of it, such as one that bash
	// reads from a pipe, uses the path where the package was built.
	find := []string{`package="$(dirname "$(readlink -f "$0")")/.."`}
	if o.At != "" {
		find = append(find, `[ -e "$package/`+planFile+`" ] || package=`+shell.Quote(o.At))
	}
	if o.Path != "" {
		find = append(find, `PATH="$PATH:"`+shell.Quote(o.Path)+`; export PATH`)
	}
	const self = `"$package"`
	microvm := shell.Quote(filepath.Join(o.BinDir, "microvm"))
	helper := func(name, verb string) string {
		return "exec " + shell.Quote(filepath.Join(o.LibexecDir, name)) + verb + " --package " + self + " " + shell.Quote(p.Name)
	}
	script := func(name, line string) { t.script(name, append(slices.Clone(find), line)...) }
	// --as-built, because a program that replaces this one may call it.
	script("microvm-run", "exec "+microvm+" run --as-built "+self)
	if p.Shutdown.Method != hypervisor.ShutdownNone {
		script("microvm-shutdown", "exec "+microvm+" shutdown --as-built "+self)
	}
	if p.Balloon != nil {
		script("microvm-balloon", "exec "+microvm+" balloon "+self+` "$@"`)
	}
	if unit.Taps.Needs(p) {
		script("tap-up", helper(unit.Taps.Program, " up"))
		script("tap-down", helper(unit.Taps.Program, " down"))
	}
	if unit.Macvtaps.Needs(p) {
		script("macvtap-up", helper(unit.Macvtaps.Program, " up"))
		script("macvtap-down", helper(unit.Macvtaps.Program, " down"))
	}
	if unit.PCI.Needs(p) {
		script("pci-setup", helper(unit.PCI.Program, " up"))
	}
	if unit.Virtiofsd.Needs(p) {
		script("virtiofsd-run", helper(unit.Virtiofsd.Program, " up"))
	}
}

// ownCommands is the line that is replaced by the package's own commands in a helper script
// of the spec; nix/lib.nix has it too.
const ownCommands = "# (the package's own commands)"

// helperScripts are the scripts to which the spec may add commands, or which it may replace.
// No unit of ours runs them; they are for users and for hosts of microvm.nix.
var helperScripts = []string{"tap-up", "tap-down", "macvtap-up", "macvtap-down", "pci-setup", "virtiofsd-run"}

// ownScripts adds the spec's scripts, by name. None may replace a script that the units or
// the command run.
func (t *tree) ownScripts(scripts map[string]string) error {
	var faults spec.Faults
	for _, name := range slices.Sorted(maps.Keys(scripts)) {
		ours, taken := t.files["bin/"+name]
		helper := slices.Contains(helperScripts, name)
		if taken && !helper {
			faults.Addf("binScripts."+name, "the package already has a script of this name").Hintf("choose another name")
			continue
		}
		text := strings.TrimSuffix(scripts[name], "\n")
		if helper {
			text = around(text, strings.TrimPrefix(ours.content, shebang))
		}
		t.script(name, text)
	}
	return faults.Err()
}

// around returns a script with our commands in place of ownCommands, if it has that line.
// Our last command is an exec, which becomes a call if more commands follow.
func around(script, ours string) string {
	before, after, found := strings.Cut(script, ownCommands)
	if !found {
		return script
	}
	ours = strings.TrimSuffix(ours, "\n")
	if strings.TrimSpace(after) != "" {
		ours = strings.TrimPrefix(ours, "exec ")
	}
	// A command that fails ends the script, as in one of microvm.nix.
	return "set -e\n" + before + ours + after
}
