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
		Short: "Attach to a VM's serial console; ctrl-] detaches",
		Long: "Attach to a VM's serial console; ctrl-] detaches.\n\n" +
			"Any number may attach. The first has the keyboard and the others read; when it\n" +
			"leaves, one of them takes over. Where standard input is no terminal, it is typed\n" +
			"as it is, ctrl-] included, and the console is read until the VM goes down.\n\n" +
			"A serial line does not tell the guest how large the terminal is. Guests that ask\n" +
			"the terminal, as systemd 257 and resize(1) do, get its answer; for others, at a\n" +
			"shell's prompt, --resize types the size, and again whenever it changes.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runConsole(cmd.Context(), c, o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.resize, "resize", false, "type stty with the terminal's size, now and whenever it changes")
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
		return fmt.Errorf("%s has no console to attach to; read what it says with: microvm logs -f %s", v.Name, v.Name)
	}
	if o.resize && !term.IsTerminal(c.Stdin) {
		return exit.Usage(errors.New("standard input is no terminal, and has no size to type; leave --resize out"))
	}
	return attach(ctx, c, o, v, plan.Console)
}

// attach connects the caller's terminal, or streams, to a VM's console.
func attach(ctx context.Context, c *Command, o consoleOptions, v statedir.VM, socket string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	s := &console.Session{
		Dir: v.Dir(), Socket: socket,
		// No VM's name begins with a dot, so it is taken for none.
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
		s.Say("attached; leave with ctrl-]")
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
		s.Say("the VM went down; start it with: microvm start %s", v.Name)
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("attach to the console of %s: %w; run it with sudo", v.Name, err)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("attach to the console of %s: %w; is the hypervisor running? See: microvm status %s", v.Name, err, v.Name)
	case err != nil:
		return fmt.Errorf("attach to the console of %s: %w", v.Name, err)
	}
	return nil
}

// sizes sends what tells a shell the size of a terminal, now and whenever it
// changes.
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
