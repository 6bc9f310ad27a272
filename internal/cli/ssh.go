package cli

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"microvm/internal/shell"
)

func newSSH(c *Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh [USER@]NAME [--] [ARGS]",
		Short: "Log in to a guest, or run a command in it, over vsock",
		Long: "Log in to a guest, or run a command in it, over vsock: the guest needs no network.\n" +
			"ARGS are ssh's, as in: microvm ssh web -- systemctl --failed. USER is root where\n" +
			"none is named. The exit code is that of the command in the guest.\n\n" +
			"The guest needs a vsock.cid in its spec and an sshd that listens on vsock port 22,\n" +
			"which systemd 256 and newer set up by themselves where sshd is installed.\n" +
			"Host keys are not checked: nobody is between the host and its guest.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runSSH(c, args[0], args[1:]) },
	}
	// What follows the name is ssh's, flags among it.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// runSSH becomes ssh.
func runSSH(c *Command, who string, rest []string) error {
	_, name := userOf(who)
	if _, err := guestAddress(c, name); err != nil {
		return err
	}
	ourselves, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, which is ssh's way to the guest: %w", err)
	}
	argv := sshArgv(os.Getenv("MICROVM_SSH"), ourselves, who, rest)
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("%s is not installed; install openssh-client, or openssh where the package is named so", argv[0])
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

// sshProgram is what runs in place of which MICROVM_SSH can have something else. A
// guest makes its keys anew as often as it likes, and it is by its number that it is
// known.
const sshProgram = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"

// sshArgv is the command line of ssh to a VM, with this program as its way
// there.
func sshArgv(program, ourselves, who string, rest []string) []string {
	user, name := userOf(who)
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	argv := strings.Fields(program)
	if len(argv) == 0 {
		argv = strings.Fields(sshProgram)
	}
	// ssh takes the first value of an option, and knows hosts by two files.
	if slices.Contains(argv, "UserKnownHostsFile=/dev/null") {
		argv = append(argv, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
	}
	// ssh gives the command to the user's shell, after its own expansions.
	proxy := strings.ReplaceAll(shell.Quote(ourselves), "%", "%%") + " vsock-proxy --pass-fd " + name
	argv = append(argv, "-o", "ProxyCommand="+proxy, "-o", "ProxyUseFdpass=yes", "-o", "CheckHostIP=no", "-o", "User="+user,
		// A name that no ssh_config means a machine of the network by.
		"microvm/"+name)
	return append(argv, rest...)
}
