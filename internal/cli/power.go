package cli

import (
	"github.com/spf13/cobra"

	"microvm/internal/systemd"
)

func (c *Command) power(job systemd.Job, short string) *cobra.Command {
	return &cobra.Command{
		Use:   string(job) + " NAME…",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			vms, errs, err := c.vms(args)
			if err != nil {
				return err
			}
			failed, err := c.jobs(ctx, job, vms)
			if err != nil {
				return err
			}
			return several(append(errs, failed...), len(vms)+len(errs))
		},
	}
}
