package start

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
)

// findProgram looks where administrators' programs are, too: a service's PATH
// may not have them.
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

// cause is an error of a program without the program's name, which exec.Error and
// fs.PathError both repeat.
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

// run runs a program and puts what it says into the error.
func run(program string, args ...string) error {
	cmd := exec.Command(program, args...) //nolint:gosec // mkfs and its kin, with the operator's arguments
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(out.String()))
	}
	return nil
}
