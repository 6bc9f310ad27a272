package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// packages of the Debian root that both hosts boot.
var packages = strings.Fields(`
	systemd systemd-sysv systemd-container dbus udev kmod iproute2 iputils-ping procps psmisc
	e2fsprogs xfsprogs btrfs-progs dosfstools qemu-system-x86 qemu-system-arm qemu-utils virtiofsd linux-image-amd64
	strace netcat-openbsd openssh-client openssh-server tmux less zstd
	bash-completion zsh fish groff-base bzip2 lz4 xz-utils
	perl libconfig-inifiles-perl libfile-slurp-perl libjson-perl jq socat supervisor
`)

const (
	suite  = "trixie"
	mirror = "http://deb.debian.org/debian"
	// recipe changes when what is done to the root changes.
	recipe = "3"
)

// bootUnit runs the payload of a VM host. Containers do not have the word on
// their command line.
const bootUnit = `[Unit]
Description=Run the test payload
ConditionKernelCommandLine=microvm.payload
After=multi-user.target

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh -c 'mkdir -p /payload && mount -o ro /dev/vdb /payload && exec /bin/sh /payload/boot'
StandardOutput=journal+console
`

// root is a Debian root with its files, cached by recipe.
type root struct {
	dir, tree string
}

// step prints what takes a while, and how long it took.
func step(what string, do func() error) error {
	began := time.Now()
	fmt.Fprintf(os.Stderr, "==> %s\n", what)
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if took := time.Since(began); took > time.Second {
		fmt.Fprintf(os.Stderr, "    %.1f s\n", took.Seconds())
	}
	return nil
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// ensureRoot makes the root, or finds it in the cache.
func ensureRoot() (root, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return root{}, err
	}
	sum := sha256.Sum256([]byte(strings.Join(append(packages, suite, mirror, recipe, bootUnit), "\n")))
	r := root{dir: filepath.Join(cache, "microvm-test", hex.EncodeToString(sum[:])[:16])}
	r.tree = filepath.Join(r.dir, "root")
	if _, err := os.Stat(r.tree); err == nil {
		return r, nil
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return root{}, err
	}
	unlock, err := lock(r.dir)
	if err != nil {
		return root{}, err
	}
	defer unlock()
	if _, err := os.Stat(r.tree); err == nil {
		return r, nil
	}
	tmp := r.tree + ".new"
	err = step("make a Debian "+suite+" root (once; about 2 minutes)", func() error {
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		err := run("mmdebstrap", "--variant=minbase", "--format=directory",
			`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Languages "none"`, `--aptopt=Acquire::Retries "5"`,
			"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
			"--include="+strings.Join(packages, ","), suite, tmp, mirror)
		if err != nil {
			return err
		}
		return prepare(tmp)
	})
	if err != nil {
		return root{}, err
	}
	return r, os.Rename(tmp, r.tree)
}

// lock waits until no other process makes what goes into dir: what another run left
// half made is removed, and a root that is being made has the machine's /proc in it.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// prepare adds what a test host has beyond its packages.
func prepare(tree string) error {
	unit := filepath.Join(tree, "etc/systemd/system/microvm-payload.service")
	wants := filepath.Join(tree, "etc/systemd/system/graphical.target.wants")
	link := filepath.Join(tree, "etc/systemd/system/default.target")
	_ = os.Remove(link)
	return errors.Join(
		os.WriteFile(unit, []byte(bootUnit), 0o644),
		os.MkdirAll(wants, 0o755),
		os.Symlink("/etc/systemd/system/microvm-payload.service", filepath.Join(wants, "microvm-payload.service")),
		os.Symlink("/usr/lib/systemd/system/graphical.target", link),
		os.WriteFile(filepath.Join(tree, "etc/hostname"), []byte("testhost\n"), 0o644),
		run("rm", "-f", filepath.Join(tree, "etc/machine-id")),
		os.WriteFile(filepath.Join(tree, "etc/machine-id"), []byte("uninitialized\n"), 0o444),
		mask(tree, "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer", "dpkg-db-backup.timer",
			"systemd-networkd-wait-online.service", "ssh.service", "ssh.socket", "e2scrub_reap.service", "getty@tty1.service", "supervisor.service"),
	)
}

func mask(tree string, units ...string) error {
	var errs error
	for _, u := range units {
		path := filepath.Join(tree, "etc/systemd/system", u)
		_ = os.Remove(path)
		errs = errors.Join(errs, os.Symlink("/dev/null", path))
	}
	return errs
}

// kernel returns the paths of the root's kernel and Debian's own initrd.
func (r root) kernel() (vmlinuz, initrd string, err error) {
	kernels, err := filepath.Glob(filepath.Join(r.tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		return "", "", fmt.Errorf("the root has no kernel in /boot (%v)", err)
	}
	vmlinuz = kernels[len(kernels)-1]
	return vmlinuz, strings.Replace(vmlinuz, "vmlinuz-", "initrd.img-", 1), nil
}

// assets puts what the tests need in addition to the product into dir: the guest's
// kernel and initramfs.
func (r root) assets(dir string) error {
	vmlinuz, _, err := r.kernel()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	initProgram, sshd := filepath.Join(dir, "init"), filepath.Join(dir, "sshd")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "./test/guest/init", "./test/guest/sshd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the test guest: %w\n%s", err, out)
	}
	return errors.Join(
		run("go", "run", "./test/guest/pack", "-root", r.tree, "-init", initProgram, "-sshd", sshd, "-o", filepath.Join(dir, "initrd")),
		run("cp", "--", vmlinuz, filepath.Join(dir, "vmlinuz")),
	)
}
