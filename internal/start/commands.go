package start

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// beforeStart runs what the hypervisor itself needs to have run, unprivileged as
// everything here.
func beforeStart(commands string) error {
	if commands == "" {
		return nil
	}
	cmd := exec.Command("/bin/sh", "-eu", "-c", commands) //nolint:gosec // the plan's own commands
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("what the hypervisor needs before it starts: %w", err)
	}
	return nil
}

// extraArgs runs the spec's script and splits its one line at white space.
func extraArgs(script string) ([]string, error) {
	if script == "" {
		return nil, nil
	}
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:gosec // the spec's own script
	cmd.Stderr = os.Stderr
	// What it leaves running may hold its output open.
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("extraArgsScript %s: %w", script, err)
	}
	if bytes.Count(bytes.TrimSpace(out), []byte("\n")) > 0 {
		return nil, fmt.Errorf("extraArgsScript %s printed more than one line; it has to print the arguments on one", script)
	}
	return strings.Fields(string(out)), nil
}
