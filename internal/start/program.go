package start

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"

	"microvm/internal/exit"
)

// findProgram returns the path of a program. It also searches the directories of
// administrators' programs, which may not be in a service's PATH.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case strings.Contains(name, "/") && errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%s is not executable", name)
	case strings.Contains(name, "/"):
		return "", fmt.Errorf("%s: %w", name, cause(err))
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/run/current-system/sw/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s not found in PATH", name)
}

// findTool is findProgram for a program that is in a Debian package of that name.
func findTool(name, debianPackage string) (string, error) {
	path, err := findProgram(name)
	if err != nil {
		return "", exit.WithHint(exit.Config(err), "install it, on Debian with: apt-get install %s", debianPackage)
	}
	return path, nil
}

// cause returns err without the program's name, which both exec.Error and fs.PathError
// repeat.
func cause(err error) error {
	var path *fs.PathError
	var program *exec.Error
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &program):
		return program.Err
	}
	return err
}

// run runs a program. The error contains its output.
func run(program string, args ...string) error {
	cmd := exec.Command(program, args...) //nolint:gosec // mkfs and its kin, with the operator's arguments
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(out.String()))
	}
	return nil
}
