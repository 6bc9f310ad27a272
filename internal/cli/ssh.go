package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/guest"
	"microvm/internal/hypervisor"
	"microvm/internal/shell"
	"microvm/internal/statedir"
	"microvm/internal/vm"
)

const (
	// sshPort is where systemd-ssh-generator(8) has sshd listen in a guest.
	sshPort = 22
	// sshUser is who logs in where the command line names nobody.
	sshUser = "root"
	// muxSocket is the multiplexer's socket where the plan names none: in packages
	// of microvm.nix, and in ours whose guest does not report by it.
	muxSocket = "notify.vsock"
)

func (c *Command) ssh() *cobra.Command {
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
		RunE: func(_ *cobra.Command, args []string) error {
			_, name := userOf(args[0])
			if _, err := c.guestAddress(name); err != nil {
				return err
			}
			ourselves, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program, which is ssh's way to the guest: %w", err)
			}
			argv := sshArgv(os.Getenv("MICROVM_SSH"), ourselves, args[0], args[1:])
			program, err := exec.LookPath(argv[0])
			if err != nil {
				return fmt.Errorf("%s is not installed; install openssh-client, or openssh where the package is named so", argv[0])
			}
			err = unix.Exec(program, argv, os.Environ())
			return fmt.Errorf("execute %s: %w", program, err)
		},
	}
	// What follows the name is ssh's, flags among it.
	cmd.Flags().SetInterspersed(false)
	return cmd
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

// guestAddress is where the guest of a VM that runs can be reached.
func (c *Command) guestAddress(name string) (guest.Address, error) {
	v, err := c.vm(name)
	if err != nil {
		return guest.Address{}, err
	}
	plan, err := vm.RunningPlan(v)
	if err != nil {
		return guest.Address{}, err
	}
	return addressOf(v, plan)
}

func addressOf(v statedir.VM, plan *hypervisor.Plan) (guest.Address, error) {
	if plan.VsockCID == nil {
		return guest.Address{}, fmt.Errorf("%s has no vsock; set vsock.cid in its spec, a number from 3 on that no other VM has, update it and restart it", v.Name)
	}
	a := guest.Address{CID: uint32(*plan.VsockCID), Dir: v.Dir(), Socket: plan.Readiness.VsockSocket}
	table, err := hypervisor.Table()
	if err != nil {
		return a, err
	}
	if a.Socket == "" && table[plan.Hypervisor].Vsock == "unix" {
		a.Socket = muxSocket
	}
	return a, nil
}

func (c *Command) vsockProxy() *cobra.Command {
	var passFD bool
	cmd := &cobra.Command{
		Use:   "vsock-proxy NAME [PORT]",
		Short: "Connect standard input and output to a vsock port of a guest",
		Long: "Connect standard input and output to a vsock port of a guest, by default 22, whatever\n" +
			"way its hypervisor has to get there. For ssh_config(5):\n\n" +
			"  Host web\n" +
			"    ProxyCommand microvm vsock-proxy web %p\n\n" +
			"With --pass-fd the connection itself is passed on standard output, for ProxyUseFdpass.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			port := uint64(sshPort)
			if len(args) == 2 {
				var err error
				if port, err = strconv.ParseUint(args[1], 10, 32); err != nil {
					return exit.Usagef("%q is no vsock port; give a number, such as 22", args[1])
				}
			}
			a, err := c.guestAddress(args[0])
			if err != nil {
				return err
			}
			conn, err := guest.Dial(cmd.Context(), a, uint32(port))
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			if passFD {
				return passOn(c.Stdout, conn)
			}
			return join(conn, c.Stdin, c.Stdout)
		},
	}
	cmd.Flags().BoolVar(&passFD, "pass-fd", false, "pass the connection on standard output, a socket, and leave")
	return cmd
}

// passOn sends the connection with one byte, as ssh_config(5) ProxyUseFdpass
// wants it, so that no process of ours stays between ssh and the guest.
func passOn(stdout io.Writer, conn *os.File) error {
	out, ok := stdout.(*os.File)
	if !ok {
		return exit.Usage(errors.New("--pass-fd needs a socket as standard output; it is for ssh's ProxyUseFdpass"))
	}
	err := unix.Sendmsg(int(out.Fd()), []byte{0}, unix.UnixRights(int(conn.Fd())), nil, 0)
	if errors.Is(err, unix.ENOTSOCK) {
		return exit.Usage(errors.New("--pass-fd needs a socket as standard output; it is for ssh's ProxyUseFdpass"))
	}
	if err != nil {
		return fmt.Errorf("pass the connection on: %w", err)
	}
	return nil
}

// join copies both ways until the guest has said everything. The end of in is
// passed on as the end of what the guest is told, and no more.
func join(conn *os.File, in io.Reader, out io.Writer) error {
	go func() {
		_, _ = io.Copy(conn, in)
		_ = unix.Shutdown(int(conn.Fd()), unix.SHUT_WR)
	}()
	if _, err := io.Copy(out, conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("read from the guest: %w", err)
	}
	return nil
}
