package cli

import (
	"context"

	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

// newPower returns the command start, stop or restart. They differ only in their job.
func newPower(c *Command, job systemd.Job, short string) *cobra.Command {
	return &cobra.Command{
		Use:   string(job) + " NAME…",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return runPower(ctx, c, job, args)
		},
	}
}

func runPower(ctx context.Context, c *Command, job systemd.Job, names []string) error {
	s, err := c.vms(names)
	if err != nil {
		return err
	}
	failed, err := runJobs(ctx, c.Stdout, c.Stderr, job, s.vms)
	if err != nil {
		return err
	}
	return s.outcome(failed)
}
