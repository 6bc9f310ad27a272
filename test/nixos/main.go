// Command nixos tests the modules of NixOS hosts in a NixOS host: it evaluates and
// builds the host's generations with a tree of nixpkgs that it is given, boots one
// in a container as NixOS does, and switches between them with NixOS' own
// switch-to-configuration.
//
//	nixos -nixos DIR [-microvm-nix DIR] [-run REGEXP] HOST
//
// HOST is the program of test/host, which has a Debian root and the test guest.
// Nothing else is fetched: where nixpkgs would have to be compiled, files of that
// root stand in, which pkgs.nix makes packages of.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
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
  our package     its real postInstall, after programs that go build made
  set-uid         security.wrappers is empty
  guests          their NixOS is evaluated and built; what boots is the test guest, emulated by QEMU
  nix             none in the host: a profile is a link, a bootloader is true
real, and of the tree that was given: the modules, stage 2, activation, switch-to-configuration, trivial builders`

func run(ctx context.Context) error {
	nixpkgs := flag.String("nixos", "", "`directory` laid out as nixpkgs: nixos/, lib/ and pkgs/")
	upstream := flag.String("microvm-nix", "", "`directory` of microvm.nix, to move over from it and back")
	only := flag.String("run", "", "run only the tests that match `regexp`")
	work := flag.String("work", "build/nixos", "`directory` for the store and what is built")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if flag.NArg() != 1 {
		return errors.New("usage: nixos -nixos DIR [-microvm-nix DIR] [-run REGEXP] HOST")
	}
	if err := checkTrees(*nixpkgs, *upstream); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("a container needs root\nhint: run it with sudo")
	}
	fmt.Println(standIns)
	b := builder{nixpkgs: *nixpkgs, upstream: *upstream, work: *work, host: flag.Arg(0)}
	systems, err := b.build(ctx)
	if err != nil {
		return err
	}
	return runTests(ctx, b, systems, pattern)
}

// runTests runs each test in a container of its own, so that none meets what
// another has left.
func runTests(ctx context.Context, b builder, systems map[string]string, pattern *regexp.Regexp) error {
	var failed []string
	count := 0
	for _, test := range tests {
		if !pattern.MatchString(test.name) || ctx.Err() != nil {
			continue
		}
		if test.upstream && b.upstream == "" {
			fmt.Printf("--- NOT RUN: %s: it wants MICROVM_NIX=DIR\n", test.name)
			continue
		}
		count++
		fmt.Printf("=== RUN   %s\n", test.name)
		began := time.Now()
		err := runTest(ctx, b, systems, test)
		result := "PASS"
		if err != nil {
			result = "FAIL"
			failed = append(failed, test.name)
			fmt.Printf("    %s\n", strings.ReplaceAll(err.Error(), "\n", "\n    "))
		}
		fmt.Printf("--- %s: %s (%.1fs)\n", result, test.name, time.Since(began).Seconds())
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case count == 0:
		return fmt.Errorf("no test matches %s", pattern)
	case len(failed) != 0:
		return fmt.Errorf("%d of %d tests failed: %s", len(failed), count, strings.Join(failed, ", "))
	}
	fmt.Printf("ok: %d tests\n", count)
	return nil
}

func runTest(ctx context.Context, b builder, systems map[string]string, test test) (err error) {
	m, err := boot(ctx, b, systems, test.boot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.remove()) }()
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
