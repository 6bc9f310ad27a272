package cli

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

func TestSSHTakesUserNameAndArguments(t *testing.T) {
	for _, test := range []struct {
		who  string
		rest []string
		user string
		last []string
	}{
		{"web", nil, "root", []string{"microvm/web"}},
		{"anna@web", []string{"--", "-v", "systemctl", "--failed"}, "anna", []string{"microvm/web", "-v", "systemctl", "--failed"}},
		{"web", []string{"ls", "--", "a b;c"}, "root", []string{"microvm/web", "ls", "--", "a b;c"}},
	} {
		argv := sshArgv("", "/opt/100% it's/microvm", test.who, test.rest)
		if got := argv[len(argv)-len(test.last):]; !slices.Equal(got, test.last) {
			t.Errorf("%s %q: ends in %q, want %q", test.who, test.rest, got, test.last)
		}
		if !slices.Contains(argv, "User="+test.user) {
			t.Errorf("%s: %q has another user than %s", test.who, argv, test.user)
		}
		// As ssh expands it, a shell has to find the program and the name.
		const proxy = `ProxyCommand='/opt/100%% it'\''s/microvm' vsock-proxy --pass-fd web`
		if !slices.Contains(argv, proxy) {
			t.Errorf("%q has no %s", argv, proxy)
		}
	}
}

func TestAnotherSSHCanCheckTheGuestsKey(t *testing.T) {
	unchecked := []string{"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null"}
	for program, want := range map[string]struct {
		words  []string
		checks bool
	}{
		"":                        {[]string{"ssh"}, false},
		sshProgram:                {[]string{"ssh"}, false},
		"ssh":                     {[]string{"ssh"}, true},
		" /opt/ssh  -F /etc/ssh2": {[]string{"/opt/ssh", "-F", "/etc/ssh2"}, true},
	} {
		argv := sshArgv(program, "/opt/microvm", "web", nil)
		if got := argv[:len(want.words)]; !slices.Equal(got, want.words) {
			t.Errorf("%q: begins with %q, want %q", program, got, want.words)
		}
		for _, option := range unchecked {
			if slices.Contains(argv, option) == want.checks {
				t.Errorf("%q: %q, want checks: %v", program, argv, want.checks)
			}
		}
	}
}

func TestProxyPassesTheConnectionOn(t *testing.T) {
	near, far := unixPair(t)
	conn, guest := unixPair(t)
	if err := passOn(near, conn); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(far.Fd()), make([]byte, 1), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	passed := os.NewFile(uintptr(fds[0]), "passed")
	defer func() { _ = passed.Close() }()
	if _, err := passed.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(guest, got); err != nil || string(got) != "hello" {
		t.Errorf("the guest got %q, %v", got, err)
	}
	if err := passOn(os.Stderr, conn); err == nil || !strings.Contains(err.Error(), "needs a socket") {
		t.Errorf("to what is no socket: %v", err)
	}
}

func TestProxyCopiesBothWaysAndEndsWithTheGuest(t *testing.T) {
	conn, guest := unixPair(t)
	go func() {
		data, _ := io.ReadAll(guest) // until the end of what we say
		_, _ = guest.WriteString("got " + string(data))
		_ = guest.Close()
	}()
	var out strings.Builder
	if err := join(conn, strings.NewReader("words"), &out); err != nil || out.String() != "got words" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func unixPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func TestGuestIsReachedTheWayItsHypervisorHas(t *testing.T) {
	cid := int64(7)
	vm := statedir.VM{Host: statedir.Host{StateDir: "/srv"}, Name: "web"}
	for _, test := range []struct {
		plan   hypervisor.Plan
		socket string
	}{
		{hypervisor.Plan{Hypervisor: "qemu", VsockCID: &cid}, ""},
		{hypervisor.Plan{Hypervisor: "firecracker", VsockCID: &cid}, "notify.vsock"},
		{hypervisor.Plan{Hypervisor: "cloud-hypervisor", VsockCID: &cid, Foreign: true}, "notify.vsock"},
		{hypervisor.Plan{Hypervisor: "cloud-hypervisor", VsockCID: &cid, Readiness: hypervisor.Readiness{Mode: "guest", VsockSocket: "own.vsock"}}, "own.vsock"},
	} {
		a, err := addressOf(vm, &test.plan)
		if err != nil || a.CID != 7 || a.Dir != "/srv/web" || a.Socket != test.socket {
			t.Errorf("%s: %+v, %v; want socket %q", test.plan.Hypervisor, a, err, test.socket)
		}
	}
	if _, err := addressOf(vm, &hypervisor.Plan{Hypervisor: "qemu"}); err == nil || !strings.Contains(err.Error(), "set vsock.cid") {
		t.Errorf("without a CID: %v", err)
	}
}
