// Command fresh runs a target of the Makefile on a new machine: a Debian root with
// only make, Go and certificates, and with a clone of the committed files.
//
//	fresh [-target TARGET] [-keep] VERSION…
//
// Debian 13 uses its own golang. Debian 12's golang, 1.19, cannot download a newer
// version, so Debian 12 gets this machine's Go, mounted read-only. The command runs as
// root. The Debian root is a plain directory below /var/tmp, because the tests mount
// overlays in it; it is removed at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const mirror = "http://deb.debian.org/debian"

// machine is a new machine.
type machine struct {
	suite    string
	packages []string
	// foreignGo means that it uses the Go of this machine.
	foreignGo bool
}

var machines = map[string]machine{
	"13": {suite: "trixie", packages: []string{"make", "golang", "ca-certificates"}},
	"12": {suite: "bookworm", packages: []string{"make", "ca-certificates"}, foreignGo: true},
}

// passed are the variables that configure how this machine reaches the package
// registries.
var passed = []string{
	"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
	"GOPROXY", "GONOSUMDB", "GOSUMDB", "GOFLAGS", "GONOSUMCHECK", "SSL_CERT_FILE", "TERM", "VERBOSE",
}

// enter is a script that changes the root directory with pivot_root(2), because nspawn
// needs a mount point at /, which a chroot does not have. $1 is the new root, $2 the
// directory of a Go installation or empty, and the rest a command.
const enter = `set -eu
root=$1 go=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mkdir -p old usr/local/go
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
[ -z "$go" ] || mount --bind "$go" usr/local/go
[ -z "$go" ] || mount -o remount,bind,ro usr/local/go
pivot_root . old
umount -l /old
rmdir /old
cd /src
exec "$@"
`

func main() {
	target := flag.String("target", "test", "the target of the Makefile")
	keep := flag.Bool("keep", false, "keep the root")
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "fresh: root privileges are required\nfresh: hint: run it with sudo")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var errs error
	for _, version := range flag.Args() {
		m, ok := machines[version]
		if !ok {
			fmt.Fprintf(os.Stderr, "fresh: Debian %q not found\nfresh: hint: use 12 or 13\n", version)
			os.Exit(2)
		}
		began := time.Now()
		fmt.Printf("==> make %s on a new Debian %s\n", *target, version)
		err := m.run(ctx, *target, *keep)
		if err != nil {
			err = fmt.Errorf("make %s on a new Debian %s: %w", *target, version, err)
		} else {
			fmt.Printf("==> make %s on a new Debian %s: ok, %.0f s\n", *target, version, time.Since(began).Seconds())
		}
		errs = errors.Join(errs, err)
	}
	if errs != nil {
		fmt.Fprintf(os.Stderr, "fresh: %v\n", errs)
		stop()
		os.Exit(1)
	}
}

// run creates the machine, clones the repository into its /src and runs make there.
func (m machine) run(ctx context.Context, target string, keep bool) (err error) {
	work, err := os.MkdirTemp("/var/tmp", "microvm-fresh-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Println("    kept in " + work)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	}
	root := filepath.Join(work, "root")
	err = output(ctx, "mmdebstrap", "--variant=minbase", "--format=directory", `--aptopt=APT::Install-Recommends "false"`,
		"--include="+strings.Join(m.packages, ","), m.suite, root, mirror)
	if err != nil {
		return err
	}
	if err := output(ctx, "git", "clone", "--quiet", "--no-hardlinks", ".", filepath.Join(root, "src")); err != nil {
		return err
	}
	if err := m.network(root); err != nil {
		return err
	}
	path, goroot := "PATH=/usr/sbin:/usr/bin:/sbin:/bin", ""
	if m.foreignGo {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("find this machine's Go: %w", err)
		}
		goroot, path = strings.TrimSpace(string(out)), "PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", enter, "enter", root, goroot, "make", target)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{path, "HOME=/root", "LANG=C.UTF-8"}
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// network copies this machine's name resolution to the new one, and its certificates
// if SSL_CERT_FILE names any.
func (m machine) network(root string) error {
	files := []string{"/etc/resolv.conf", "/etc/hosts"}
	if own := os.Getenv("SSL_CERT_FILE"); own != "" {
		files = append(files, own)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		target := filepath.Join(root, file)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(target), 0o755)
		}
		if err == nil {
			err = os.WriteFile(target, data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("copy %s to the new machine: %w", file, err)
		}
	}
	return nil
}

// output runs a program; its output becomes part of the error.
func output(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}
