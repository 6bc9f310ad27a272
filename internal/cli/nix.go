package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// nix runs nix with arguments that no shell sees, and returns what it prints on
// its standard output. Its standard error goes to stderr.
func nix(ctx context.Context, stderr io.Writer, args ...string) (string, error) {
	path, err := exec.LookPath("nix")
	if err != nil {
		return "", errors.New("nix is not in PATH; install it, or describe the VM in a spec: microvm create NAME -s SPEC")
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // found in PATH, as the user means
	// Both features are in use everywhere and on by default nowhere.
	cmd.Env = append(os.Environ(), "NIX_CONFIG="+nixConfig(os.Getenv("NIX_CONFIG")))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return out.String(), err
}

func nixConfig(before string) string {
	const features = "extra-experimental-features = nix-command flakes"
	if before == "" {
		return features
	}
	return before + "\n" + features
}
