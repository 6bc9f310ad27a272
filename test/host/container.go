package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"microvm/test/nspawn"
)

const (
	bootTimeout      = 3 * time.Minute
	containerTimeout = 55 * time.Minute
)

// inContainer boots the root with payload laid over it under systemd-nspawn
// and runs command inside, as root. It returns the command's exit code.
func inContainer(ctx context.Context, r root, payload string, command []string) (code int, err error) {
	c, err := nspawn.Boot(ctx, nspawn.System{
		Root:    r.tree,
		Name:    "microvm-test",
		Lay:     func(tree string) error { return run("cp", "-a", payload+"/.", tree) },
		Args:    []string{"--boot"},
		Timeout: bootTimeout,
		Environment: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=" + os.Getenv("TERM"),
			"MICROVM_TEST_HOST=container"},
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Remove()) }()
	return runIn(ctx, c, command)
}

func runIn(ctx context.Context, c *nspawn.Container, words []string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, containerTimeout)
	defer cancel()
	// Not by the context: what is killed is the container, with all that runs in it.
	cmd := c.Command(context.WithoutCancel(ctx), words...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, c.Kill)
	defer stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("the container was ended: %w", ctx.Err())
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	}
	return 0, err
}
