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

var versionNumber = regexp.MustCompile(`\bv?([0-9]+)\.([0-9]+)`)

// ask runs program --version, or -version, which is how StratoVirt has it.
func (v *Versions) ask(program string) (major, minor int, err error) {
	path, err := v.Find(program)
	if err != nil {
		return 0, 0, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	var say func()
	if v.Slow != nil {
		say = func() { v.Slow(program) }
	}
	ctx, cancel := context.WithTimeout(context.Background(), VersionLimit)
	defer cancel()
	cmd := Command{Path: path, As: As(path, v.Account), Apart: true, Limit: VersionLimit, Slow: say}
	var out []byte
	for _, flag := range []string{"--version", "-version"} {
		cmd.Args = []string{flag}
		out, _, err = cmd.Run(ctx)
		if !errors.As(err, new(*exec.ExitError)) {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("ask %s for its version: %w", program, err)
	}
	return parseVersion(program, out)
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
