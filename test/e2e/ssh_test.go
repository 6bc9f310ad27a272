package e2e

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// multiplexer answers on a VM's socket as cloud-hypervisor and firecracker do, and
// gives what connects to port 22 an sshd of this host's: what systemd starts in a
// guest for each connection.
func multiplexer(t *testing.T, path, keys string) {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			go connected(conn, keys)
		}
	}()
}

func connected(conn *net.UnixConn, keys string) {
	defer func() { _ = conn.Close() }()
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n') // the client waits for the answer
	if err != nil || line != "CONNECT 22\n" {
		return // as both do where nothing listens
	}
	if _, err := conn.Write([]byte("OK 1073741824\n")); err != nil {
		return
	}
	file, err := conn.File()
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }()
	cmd := exec.Command("/usr/sbin/sshd", "-i", "-f", "/dev/null", "-o", "AuthorizedKeysFile="+keys, "-o", "StrictModes=no", "-o", "UsePAM=no")
	cmd.Stdin, cmd.Stdout = file, file
	_ = cmd.Run()
}

func TestSSHGetsInThroughAMultiplexer(t *testing.T) {
	in(t, "container")
	const name = "muxed"
	dir := filepath.Join(t.TempDir(), "p")
	for path, text := range map[string]string{
		"bin/microvm-run": "#!/bin/sh\nexec sleep 1000\n", "share/microvm/hypervisor": "cloud-hypervisor\n", "share/microvm/vsock-cid": "9\n",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	cleanUp(t, name)
	sh(t, "cd "+filepath.Dir(dir)+" && microvm create muxed -p ./p")
	want(t, 0, []string{"from        a package"}, "status", name)
	want(t, 1, []string{"was created from a package"}, "update", name)
	want(t, 1, []string{"already exists"}, "-c", name, "-p", dir)
	want(t, 1, []string{"microvm start muxed"}, "ssh", name, "true")
	want(t, 0, nil, "start", name)
	key := filepath.Join(t.TempDir(), "key")
	sh(t, "mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f "+key)
	if out, code := microvm(t, "ssh", name, "-i", key, "true"); code != 255 || !strings.Contains(out, "connect to the guest: ") {
		t.Errorf("without a multiplexer: %d, %s", code, out)
	}
	multiplexer(t, "/var/lib/microvms/muxed/notify.vsock", key+".pub")
	// Each word as the guest's shell gets it from ssh, none through one of ours.
	want(t, 0, []string{"it is root, $HOME\n"}, "ssh", name, "--", "-i", key, `echo "it is $(whoami), \$HOME"`)
	if _, code := microvm(t, "-s", name, "-i", key, "exit 42"); code != 42 {
		t.Errorf("the exit code is %d, want that of the command, 42", code)
	}
	want(t, 255, []string{"Permission denied"}, "ssh", "nobody@"+name, "-i", key, "-o", "BatchMode=yes", "true")
	if got := sh(t, "{ microvm vsock-proxy muxed < /dev/null || test $? = 141; } | head -c 7"); got != "SSH-2.0" {
		t.Errorf("through the proxy the guest says %q", got)
	}
	want(t, 1, []string{"nothing listens there"}, "vsock-proxy", name, "23")
	// On a terminal: a shell, and out again.
	p := newPane(t, "microvm ssh "+name+" -i "+key+" bash --norc; echo code $?")
	eventually(t, patience, "pgrep -x ssh") // who types before that, types to the host's shell
	p.keys(t, "exit 7", "Enter")
	p.shows(t, "code 7")
	want(t, 0, nil, "stop", name)
	want(t, 3, nil, "ssh", "nosuch", "true")
	want(t, 3, nil, "vsock-proxy", "nosuch")
}
