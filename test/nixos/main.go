// Command nixos tests the modules of NixOS hosts in a NixOS host: it evaluates and
// builds the host's generations with a tree of nixpkgs that it is given, boots one
// in a container as NixOS does, and switches between them with NixOS' own
// switch-to-configuration. It builds the configurations of a directory as well.
//
//	nixos -nixos DIR [-microvm-nix DIR] [-cases DIR] [-ng FILE] [-run REGEXP] HOST
//
// HOST is the program of test/host, which has a Debian root and the test guest.
// Nothing else is fetched: where nixpkgs would have to be compiled, files of that
// root stand in, which pkgs.nix makes packages of. What was built is kept, until
// something changes that its evaluation reads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The container dies with the thread that started it (PR_SET_PDEATHSIG).
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(os.Stderr, "nixos: %s\n", line)
		}
		os.Exit(1)
	}
}

// standIns is said before anything runs, for a result is worth what it was made of.
const standIns = `stand-ins, in the place of what would have to be fetched or compiled:
  packages        links to the files of a Debian trixie root; any other is empty
  stdenv          nixpkgs' own generic one over Debian's /usr, without a compiler
  systemd         Debian's; its units are those of NixOS' modules; what Debian lacks is an empty unit
  our package     its real postInstall, after programs that go build made; twice, for a release of the same sources
  set-uid         security.wrappers is empty
  guests          their NixOS is evaluated and built; what boots is the test guest, emulated by QEMU
  nix             none in the host: a profile is a link, a bootloader is true
  configurations  built only; their packages are not merged, and an image of a guest's store is an archive
real, and of the tree that was given: the modules, stage 2, activation, switch-to-configuration, trivial builders`

func run(ctx context.Context) error {
	var b builder
	flag.StringVar(&b.nixpkgs, "nixos", "", "`directory` laid out as nixpkgs: nixos/, lib/ and pkgs/")
	flag.StringVar(&b.upstream, "microvm-nix", "", "`directory` of microvm.nix, to move over from it and back")
	flag.StringVar(&b.cases, "cases", "", "`directory` of configurations (see cases.nix) to build as well")
	flag.StringVar(&b.switcher, "ng", "", "`program` of switch-to-configuration-ng, to switch with")
	flag.StringVar(&b.work, "work", "build/nixos", "`directory` for the store and what is built")
	only := flag.String("run", "", "run only the tests and configurations that match `regexp`")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if flag.NArg() != 1 {
		return errors.New("usage: nixos -nixos DIR [-microvm-nix DIR] [-cases DIR] [-ng FILE] [-run REGEXP] HOST")
	}
	b.host = flag.Arg(0)
	if err := b.checkInputs(); err != nil {
		return err
	}
	wanted, generations := chosen(&b, pattern)
	files, err := configurations(b.cases, pattern)
	if err != nil {
		return err
	}
	if len(wanted)+len(files) == 0 {
		return fmt.Errorf("no test matches %s", pattern)
	}
	if os.Geteuid() != 0 {
		return errors.New("a container needs root\nhint: run it with sudo")
	}
	fmt.Println(standIns)
	if b.switcher != "" {
		fmt.Println("switch-to-configuration is", b.switcher)
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var r results
	for _, file := range files {
		r.run(ctx, "Configurations/"+filepath.Base(file), func() error { return runConfigurations(ctx, &b, file) })
	}
	systems, err := b.generations(ctx, generations)
	if err != nil {
		return err
	}
	for _, test := range wanted {
		r.run(ctx, test.name, func() error { return runTest(ctx, &b, systems, test) })
	}
	return r.sum(ctx)
}

// chosen are the tests that match and can run, and the generations that they use.
func chosen(b *builder, pattern *regexp.Regexp) ([]test, []string) {
	var wanted []test
	generations := map[string]bool{}
	for _, test := range tests {
		if !pattern.MatchString(test.name) {
			continue
		}
		if test.upstream && b.upstream == "" {
			fmt.Printf("--- NOT RUN: %s: it wants MICROVM_NIX=DIR\n", test.name)
			continue
		}
		wanted = append(wanted, test)
		for _, name := range append(test.uses, test.boot) {
			generations[name] = true
		}
	}
	return wanted, slices.Sorted(maps.Keys(generations))
}

// configurations are the files of a directory that match.
func configurations(dir string, pattern *regexp.Regexp) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.nix"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no configurations: no *.nix in it", dir)
	}
	return slices.DeleteFunc(files, func(file string) bool {
		return !pattern.MatchString("Configurations/" + filepath.Base(file))
	}), nil
}

// results of the tests that have run.
type results struct {
	count  int
	failed []string
}

func (r *results) run(ctx context.Context, name string, test func() error) {
	if ctx.Err() != nil {
		return
	}
	r.count++
	fmt.Printf("=== RUN   %s\n", name)
	began := time.Now()
	result := "PASS"
	if err := test(); err != nil {
		result = "FAIL"
		r.failed = append(r.failed, name)
		fmt.Printf("    %s\n", strings.ReplaceAll(err.Error(), "\n", "\n    "))
	}
	fmt.Printf("--- %s: %s (%.1fs)\n", result, name, time.Since(began).Seconds())
}

func (r *results) sum(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(r.failed) != 0 {
		return fmt.Errorf("%d of %d tests failed: %s", len(r.failed), r.count, strings.Join(r.failed, ", "))
	}
	fmt.Printf("ok: %d tests\n", r.count)
	return nil
}

func runConfigurations(ctx context.Context, b *builder, file string) error {
	built, err := b.configurations(ctx, file)
	if err != nil {
		return err
	}
	for _, part := range built.parts {
		fmt.Printf("    built %s\n", part)
	}
	for _, warning := range built.warnings {
		fmt.Printf("    warning: %s\n", strings.ReplaceAll(warning, "\n", "\n    "))
	}
	return nil
}

// runTest runs a test in a container of its own, so that none meets what another has
// left.
func runTest(ctx context.Context, b *builder, systems map[string]string, test test) (err error) {
	m, err := boot(ctx, b, systems, test.boot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Remove()) }()
	defer func() {
		// What a step finds wrong it throws, as testing.T does.
		if p := recover(); p != nil {
			f, isFailure := p.(failure)
			if !isFailure {
				panic(p)
			}
			err = errors.New(string(f) + "\n" + m.why())
		}
	}()
	test.run(m)
	return nil
}
