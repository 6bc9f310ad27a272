package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// debianExample is what the README has people build.
const debianExample = "examples/debian"

// debianGuest builds the Debian guest of the examples, with a key of its own, or
// finds it in the cache: it is kept until the recipe changes. A test host has no
// network to build it in.
func debianGuest() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	err = filepath.WalkDir(debianExample, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		_, _ = sum.Write(append([]byte(path+"\x00"), data...))
		return err
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "microvm-test", "debian-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := dir + ".new"
	err = step("build the Debian guest of "+debianExample+" (once; about 2 minutes)", func() error {
		if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
			return err
		}
		return errors.Join(
			run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", filepath.Join(tmp, "key")),
			run(filepath.Join(debianExample, "build"), tmp, filepath.Join(tmp, "key.pub")),
		)
	})
	if err != nil {
		return "", err
	}
	return dir, os.Rename(tmp, dir)
}
