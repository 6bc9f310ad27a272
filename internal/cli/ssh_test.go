package cli

import (
	"slices"
	"testing"
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
		// After ssh's expansion of %, a shell must get the program and the name.
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
