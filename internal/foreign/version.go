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

// VersionLimit is how long a program may take to say which it is, in all.
const VersionLimit = 10 * time.Second

// Versions asks programs for their versions, each once. It is for one goroutine.
type Versions struct {
	// Account is whom root asks a program of root's as; nil is nobody.
	Account *syscall.Credential
	// Find finds a program by its name, as exec.LookPath or InUnit do.
	Find func(name string) (string, error)
	// Slow is called where one takes longer than a second; nil is for no one.
	Slow func(program string)

	answers map[string]answer
	seccomp map[string]bool
}

type answer struct {
	major, minor int
	err          error
}

// Of returns the version of a program as MAJOR, MINOR.
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

// Seccomp says whether a QEMU was built with its seccomp filter: one that was not
// knows no -sandbox, and says so before anything else.
func (v *Versions) Seccomp(program string) (bool, error) {
	if has, ok := v.seccomp[program]; ok {
		return has, nil
	}
	_, err := v.run(context.Background(), program, "-sandbox", "on", "-version")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, fmt.Errorf("ask %s for its sandbox: %w", program, err)
	}
	if v.seccomp == nil {
		v.seccomp = map[string]bool{}
	}
	v.seccomp[program] = err == nil
	return err == nil, nil
}

var versionNumber = regexp.MustCompile(`\bv?([0-9]+)\.([0-9]+)`)

// ask runs program --version, or -version, which is how StratoVirt has it.
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
		return 0, 0, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	return parseVersion(program, out)
}

// run returns what a program prints.
func (v *Versions) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	path, err := v.Find(program)
	if err != nil {
		return nil, err
	}
	var say func()
	if v.Slow != nil {
		say = func() { v.Slow(program) }
	}
	cmd := Command{Path: path, Args: args, As: As(path, v.Account), Apart: true, Limit: VersionLimit, Slow: say}
	out, _, err := cmd.Run(ctx)
	return out, err
}

func parseVersion(program string, out []byte) (major, minor int, err error) {
	m := versionNumber.FindSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("%s --version printed no version; is it the program that the spec means?", program)
	}
	if major, err = strconv.Atoi(string(m[1])); err != nil {
		return 0, 0, err
	}
	minor, err = strconv.Atoi(string(m[2]))
	return major, minor, err
}
