package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"microvm/internal/console"
	"microvm/internal/exit"
	"microvm/internal/statedir"
	"microvm/internal/term"
	"microvm/internal/vm"
)

// consoleOptions are the flags of console.
type consoleOptions struct{ resize bool }

func newConsole(c *Command) *cobra.Command {
	var o consoleOptions
	cmd := &cobra.Command{
		Use:   "console NAME",
		Short: "Attach to a VM's serial console",
		Long: "Attach to a VM's serial console. Press ctrl-] to detach.\n\n" +
			"Several consoles can be attached. The first one has the keyboard and the others only\n" +
			"read; when it detaches, one of them takes over. If standard input is not a terminal,\n" +
			"it is passed to the guest unchanged, including ctrl-], and the console is read until\n" +
			"the VM goes down.\n\n" +
			"A serial line does not tell the guest the size of the terminal. Guests that ask the\n" +
			"terminal, as systemd 257 and resize(1) do, get its answer. For others, --resize types\n" +
			"a stty command at the shell prompt, now and whenever the size changes.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runConsole(cmd.Context(), c, o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.resize, "resize", false, "type a stty command with the terminal's size")
	return cmd
}

func runConsole(ctx context.Context, c *Command, o consoleOptions, name string) error {
	v, err := c.vm(name)
	if err != nil {
		return err
	}
	plan, err := vm.RunningPlan(v)
	if err != nil {
		return err
	}
	if plan.Console == "" {
		return exit.WithHint(fmt.Errorf("%s has no console to attach to", v.Name), "read its output with: microvm logs -f %s", v.Name)
	}
	if o.resize && !term.IsTerminal(c.Stdin) {
		return exit.Usage(errors.New("--resize requires a terminal as standard input"))
	}
	return attach(ctx, c, o, v, plan.Console)
}

// attach connects the caller's terminal, or streams, to a VM's console socket.
func attach(ctx context.Context, c *Command, o consoleOptions, v statedir.VM, socket string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	s := &console.Session{
		Dir: v.Dir(), Socket: socket,
		// No VM name begins with a dot, so this one is never mistaken for a VM's.
		Meeting: filepath.Join(v.Host.RuntimeDir, ".console-"+v.Name+".sock"),
		In:      c.Stdin, Out: c.Stdout,
	}
	end := "\n"
	s.Say = func(format string, args ...any) {
		_, _ = fmt.Fprintf(c.Stderr, "microvm: %s: %s%s", v.Name, fmt.Sprintf(format, args...), end)
	}
	if term.IsTerminal(c.Stdin) {
		restore, err := term.Raw(c.Stdin)
		if err != nil {
			return err
		}
		defer restore()
		s.Interactive = true
		end = "\r\n"
		s.Say("attached, press ctrl-] to detach")
		if o.resize {
			s.Sizes = sizes(ctx, c.Stdin)
		}
	}
	err := s.Run(ctx)
	switch {
	case err == nil && s.Interactive:
		s.Say("detached")
		return nil
	case errors.Is(err, console.ErrClosed):
		s.Say("the VM has gone down")
		s.Say("hint: start it with: microvm start %s", v.Name)
		return nil
	case errors.Is(err, fs.ErrPermission):
		return exit.WithHint(fmt.Errorf("attach to the console of %s: %w", v.Name, err), useSudo)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return exit.WithHint(fmt.Errorf("attach to the console of %s: %w", v.Name, err),
			"check that the hypervisor is running: microvm status %s", v.Name)
	case err != nil:
		return fmt.Errorf("attach to the console of %s: %w", v.Name, err)
	}
	return nil
}

// sizes returns a channel of stty commands with the size of a terminal: one now, and
// one whenever the size changes, until ctx ends.
func sizes(ctx context.Context, terminal io.Reader) <-chan string {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	out := make(chan string)
	go func() {
		defer signal.Stop(changed)
		for {
			columns, rows := term.Size(terminal)
			select {
			case out <- fmt.Sprintf(" stty rows %d columns %d\r", rows, columns):
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
