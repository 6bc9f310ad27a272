package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/guest"
)

// vsockProxyOptions are the flags of vsock-proxy.
type vsockProxyOptions struct{ passFD bool }

func newVsockProxy(c *Command) *cobra.Command {
	var o vsockProxyOptions
	cmd := &cobra.Command{
		Use:   "vsock-proxy NAME [PORT]",
		Short: "Connect standard input and output to a vsock port of a guest",
		Long: "Connect standard input and output to a vsock port of a guest, by default 22, under any\n" +
			"hypervisor. For ssh_config(5):\n\n" +
			"  Host web\n" +
			"    ProxyCommand microvm vsock-proxy web %p\n\n" +
			"With --pass-fd, pass the connection's file descriptor over standard output, for\n" +
			"ProxyUseFdpass.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			port := uint64(sshPort)
			if len(args) == 2 {
				var err error
				if port, err = strconv.ParseUint(args[1], 10, 32); err != nil {
					return exit.Usagef("invalid vsock port %q: must be a number, such as 22", args[1])
				}
			}
			return runVsockProxy(cmd.Context(), c, o, args[0], uint32(port))
		},
	}
	cmd.Flags().BoolVar(&o.passFD, "pass-fd", false, "pass the connection over standard output, a socket, and exit")
	return cmd
}

func runVsockProxy(ctx context.Context, c *Command, o vsockProxyOptions, name string, port uint32) error {
	a, err := guestAddress(c, name)
	if err != nil {
		return err
	}
	conn, err := guest.Dial(ctx, a, port)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if o.passFD {
		return passOn(c.Stdout, conn)
	}
	return join(conn, c.Stdin, c.Stdout)
}

// errNoSocket is the error of a standard output over which no descriptor can be passed.
var errNoSocket = exit.WithHint(exit.Usage(errors.New("--pass-fd requires a socket as standard output")), "it is meant for ssh's ProxyUseFdpass")

// passOn sends the connection's descriptor with one byte, as ProxyUseFdpass of
// ssh_config(5) expects. Afterwards ssh and the guest are connected without us.
func passOn(stdout io.Writer, conn *os.File) error {
	out, ok := stdout.(*os.File)
	if !ok {
		return errNoSocket
	}
	err := unix.Sendmsg(int(out.Fd()), []byte{0}, unix.UnixRights(int(conn.Fd())), nil, 0)
	if errors.Is(err, unix.ENOTSOCK) {
		return errNoSocket
	}
	if err != nil {
		return fmt.Errorf("pass the connection: %w", err)
	}
	return nil
}

// join copies in both directions until the guest closes the connection. The end of in
// only shuts down the direction to the guest.
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
