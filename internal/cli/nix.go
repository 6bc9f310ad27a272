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

	"microvm/internal/exit"
)

// nix runs nix, without a shell, and returns its standard output. Its standard error
// goes to stderr.
func nix(ctx context.Context, stderr io.Writer, args ...string) (string, error) {
	path, err := exec.LookPath("nix")
	if err != nil {
		return "", exit.WithHint(errors.New("nix not found in PATH"), "install it, or create the VM from a spec: microvm create NAME -s SPEC")
	}
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // the user's PATH decides
	// Flakes need both features, and neither is enabled by default.
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
