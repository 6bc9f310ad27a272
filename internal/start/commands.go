package start

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"microvm/internal/exit"
)

// beforeStart runs the commands that the hypervisor needs before its start,
// unprivileged like everything here.
func beforeStart(commands string) error {
	if commands == "" {
		return nil
	}
	cmd := exec.Command("/bin/sh", "-eu", "-c", commands) //nolint:gosec // the plan's own commands
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run the hypervisor's setup commands: %w", err)
	}
	return nil
}

// extraArgs runs the spec's script and returns the fields of the line that it
// prints.
func extraArgs(script string) ([]string, error) {
	if script == "" {
		return nil, nil
	}
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:gosec // the spec's own script
	cmd.Stderr = os.Stderr
	// A process that it leaves running may keep its output open.
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("extraArgsScript %s: %w", script, err)
	}
	if bytes.Count(bytes.TrimSpace(out), []byte("\n")) > 0 {
		return nil, exit.WithHint(fmt.Errorf("extraArgsScript %s printed more than one line", script), "print all arguments on one line")
	}
	return strings.Fields(string(out)), nil
}
