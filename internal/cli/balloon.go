package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"microvm/internal/control"
	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

func newBalloon(c *Command) *cobra.Command {
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
			return runBalloon(cmd.Context(), c, args[0], guest)
		},
	}
}

// runBalloon prints how much memory the guest of word has, and before that sets it
// to guest MiB where that is not 0.
func runBalloon(ctx context.Context, c *Command, word string, guest int) error {
	p, dir, err := openInUse(c, word)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	plan, err := p.Plan()
	if err != nil {
		return err
	}
	if plan.Balloon == nil {
		return fmt.Errorf("%s %w", word, hypervisor.WhyNoBalloon(plan.Hypervisor))
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
