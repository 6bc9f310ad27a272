package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"microvm/internal/control"
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

func (c *Command) hypervisors() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "hypervisors",
		Short: "Print what each hypervisor supports",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			table, err := hypervisor.Table()
			if err != nil {
				return err
			}
			if asJSON {
				return c.json(table)
			}
			w := tabwriter.NewWriter(c.Stdout, 0, 8, 2, ' ', 0)
			_, _ = fmt.Fprintln(w, "HYPERVISOR\tNETWORK\tMULTI-QUEUE\tMACVTAP-FD\tSHARES\tDEVICES\tSHUTDOWN\tVSOCK\tREADINESS\tBALLOON\tVIRTIO-MEM")
			for _, name := range slices.Sorted(maps.Keys(table)) {
				t := table[name]
				row := []string{
					name, words(t.Interfaces), words(t.TapMultiQueue), yes(t.MacvtapByFD), words(t.Shares), words(t.Devices),
					words(t.Shutdown), t.Vsock, either(t.GuestReadiness, "guest", "vmm"), yes(t.Balloon), yes(t.HotplugMem),
				}
				_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the table as JSON")
	return cmd
}

func words(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}

func yes(b bool) string { return either(b, "yes", "-") }

func either(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func (c *Command) balloon() *cobra.Command {
	return &cobra.Command{
		Use:   "balloon DIR|NAME [MIB]",
		Short: "Print or set how much memory a guest has, by its balloon",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			guest := 0
			if len(args) == 2 {
				var err error
				if guest, err = strconv.Atoi(args[1]); err != nil || guest < 1 {
					return exit.Usagef("%q is no size; give the guest's memory in MiB, such as 256", args[1])
				}
			}
			return c.setBalloon(cmd.Context(), args[0], guest)
		},
	}
}

func (c *Command) setBalloon(ctx context.Context, word string, guest int) error {
	p, dir, err := c.openInUse(word)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return err
	}
	if plan.Balloon == nil {
		return fmt.Errorf("%s %s", word, hypervisor.WhyNoBalloon(plan.Hypervisor))
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client, err := control.OpenAs(ctx, *plan.Balloon, dir, c.unprivileged())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	reached, err := control.Balloon(ctx, client, guest)
	if errors.Is(err, control.ErrUntold) && reached == 0 {
		return exit.WithHint(fmt.Errorf("%s: the hypervisor cannot tell what the balloon has reached", word),
			"look in the guest, as with: free -m")
	}
	if err != nil && !errors.Is(err, control.ErrUntold) && !errors.Is(err, control.ErrGuestCounts) {
		return err
	}
	c.printf("%d\n", reached)
	if err != nil {
		_ = exit.Report(c.Stderr, "microvm", word, err)
	}
	return nil
}

// unprivileged is the user as whom root runs what a package names; nil where
// there is no such user, or we are not root.
func (c *Command) unprivileged() *syscall.Credential {
	account, err := c.Host.Account()
	if err != nil || os.Geteuid() != 0 {
		return nil
	}
	return account.Alone()
}

func (c *Command) gc() *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Remove packages from the store that no VM uses",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := needsRoot("remove packages"); err != nil {
				return err
			}
			removed, err := c.Host.CollectGarbage()
			for _, path := range removed {
				c.printf("removed %s\n", path)
			}
			return err
		},
	}
}
