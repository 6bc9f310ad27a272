package foreign

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// VersionLimit is how long a program may take to print its version, all calls
// together.
const VersionLimit = 10 * time.Second

// Versions asks programs for their versions, each program once. It is not safe for
// concurrent use.
type Versions struct {
	// Account are the credentials with which root runs a program that only root can
	// replace, see As; nil means nobody.
	Account *syscall.Credential
	// Find returns the path of a program, as exec.LookPath and InUnit do.
	Find func(name string) (string, error)
	// Slow is called if a program takes longer than a second; it may be nil.
	Slow func(program string)

	answers map[string]answer
	seccomp map[string]bool
}

type answer struct {
	major, minor int
	err          error
}

// Of returns the version of a program. The answer is cached, errors included.
func (v *Versions) Of(program string) (major, minor int, err error) {
	a, ok := v.answers[program]
	if !ok {
		a.major, a.minor, a.err = v.ask(program)
		if v.answers == nil {
			v.answers = map[string]answer{}
		}
		v.answers[program] = a
	}
	return a.major, a.minor, a.err
}

// Seccomp reports whether a QEMU was built with its seccomp filter: without it, QEMU
// refuses -sandbox before it does anything else.
func (v *Versions) Seccomp(program string) (bool, error) {
	if has, ok := v.seccomp[program]; ok {
		return has, nil
	}
	_, err := v.run(context.Background(), program, "-sandbox", "on", "-version")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, fmt.Errorf("check whether %s supports -sandbox: %w", program, err)
	}
	if v.seccomp == nil {
		v.seccomp = map[string]bool{}
	}
	v.seccomp[program] = err == nil
	return err == nil, nil
}

var versionNumber = regexp.MustCompile(`\bv?([0-9]+)\.([0-9]+)`)

// ask runs program --version, then -version, which is StratoVirt's option.
func (v *Versions) ask(program string) (major, minor int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), VersionLimit)
	defer cancel()
	var out []byte
	for _, flag := range []string{"--version", "-version"} {
		out, err = v.run(ctx, program, flag)
		if !errors.As(err, new(*exec.ExitError)) {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("get version of %s: %w", program, err)
	}
	return parseVersion(program, out)
}

// run returns a program's standard output.
func (v *Versions) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	path, err := v.Find(program)
	if err != nil {
		return nil, err
	}
	var slow func()
	if v.Slow != nil {
		slow = func() { v.Slow(program) }
	}
	cmd := Command{Path: path, Args: args, As: As(path, v.Account), Apart: true, Limit: VersionLimit, Slow: slow}
	out, _, err := cmd.Run(ctx)
	return out, err
}

func parseVersion(program string, out []byte) (major, minor int, err error) {
	m := versionNumber.FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("%s --version printed no version number", program)
	}
	if major, err = strconv.Atoi(string(m[1])); err != nil {
		return 0, 0, err
	}
	minor, err = strconv.Atoi(string(m[2]))
	return major, minor, err
}
