package cli

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/shell"
)

func newSSH(c *Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh [USER@]NAME [--] [ARGS]",
		Short: "Log in to a guest, or run a command in it, over vsock",
		Long: "Log in to a guest, or run a command in it, over vsock. The guest needs no network.\n" +
			"ARGS are passed to ssh, as in: microvm ssh web -- systemctl --failed. USER is root by\n" +
			"default. The exit code is that of the command in the guest.\n\n" +
			"The guest needs vsock.cid in its spec and an sshd that listens on vsock port 22, which\n" +
			"systemd 256 and newer set up automatically if sshd is installed.\n" +
			"Host keys are not checked, as vsock connects the host and its guest directly.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runSSH(c, args[0], args[1:]) },
	}
	// All that follows the name is passed to ssh, including flags.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// runSSH executes ssh. It returns only on error.
func runSSH(c *Command, who string, rest []string) error {
	_, name := userOf(who)
	if _, err := guestAddress(c, name); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("locate the microvm command: %w", err)
	}
	argv := sshArgv(os.Getenv("MICROVM_SSH"), self, who, rest)
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return exit.WithHint(fmt.Errorf("%s not found", argv[0]), "install openssh-client, or openssh on some distributions")
	}
	err = unix.Exec(program, argv, os.Environ())
	return fmt.Errorf("execute %s: %w", program, err)
}

// userOf splits [USER@]NAME.
func userOf(who string) (user, name string) {
	if user, name, found := strings.Cut(who, "@"); found {
		return user, name
	}
	return sshUser, who
}

// sshProgram is the default of MICROVM_SSH. Host keys are not checked: a guest may
// generate new ones at every boot, and its CID identifies it.
const sshProgram = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"

// sshArgv returns the command line of ssh to a VM. self, this program, is its
// ProxyCommand.
func sshArgv(program, self, who string, rest []string) []string {
	user, name := userOf(who)
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	argv := strings.Fields(program)
	if len(argv) == 0 {
		argv = strings.Fields(sshProgram)
	}
	// The first value of an option counts, and there are two files of known hosts.
	if slices.Contains(argv, "UserKnownHostsFile=/dev/null") {
		argv = append(argv, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
	}
	// ssh expands % in the command, then passes it to the user's shell.
	proxy := strings.ReplaceAll(shell.Quote(self), "%", "%%") + " vsock-proxy --pass-fd " + name
	argv = append(argv, "-o", "ProxyCommand="+proxy, "-o", "ProxyUseFdpass=yes", "-o", "CheckHostIP=no", "-o", "User="+user,
		// This is not the name of a host on the network, so no ssh_config applies by accident.
		"microvm/"+name)
	return append(argv, rest...)
}
