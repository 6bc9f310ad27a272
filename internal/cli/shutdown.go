package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/process"
	"microvm/internal/statedir"
	"microvm/internal/stop"
	"microvm/internal/unit"
)

// shutdownOptions are the flags of shutdown.
type shutdownOptions struct{ asBuilt bool }

func newShutdown(c *Command) *cobra.Command {
	var o shutdownOptions
	cmd := &cobra.Command{
		Use:   "shutdown DIR|NAME",
		Short: "Shut down a VM that was started manually",
		Long: "Ask the guest of a VM that was started manually to shut down, and wait until it is\n" +
			"down: of the package DIR, which runs in the current directory, or of a VM that was\n" +
			"started with microvm run NAME. A hypervisor that is still running after 90 s is killed.\n\n" +
			"To stop a VM that runs as a service, use microvm stop: its service would start it again.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runShutdown(cmd.Context(), c, o, args[0])
		},
	}
	asBuiltFlag(cmd, &o.asBuilt)
	return cmd
}

// runShutdown shuts down the guest of a VM, or of a package that runs in the current
// directory.
func runShutdown(ctx context.Context, c *Command, o shutdownOptions, dirOrName string) error {
	p, dir, err := openInUse(c, dirOrName)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if o.asBuilt {
		p.AsBuilt()
	}
	plan, err := p.Plan()
	if err != nil {
		return err
	}
	target, err := hypervisorOf(ctx, c.Host, plan, dir)
	if err != nil {
		return err
	}
	// In microvm.nix's units this is ExecStop= of the VM's own service.
	if name := serviceOf(target.PID()); name != "" && name != serviceOf(os.Getpid()) {
		return exit.WithHint(fmt.Errorf("%s runs as a service, which would start it again", name), "stop it with: microvm stop %s", name)
	}
	return stop.Hypervisor(ctx, stop.Request{
		Process: target, Plan: plan, Package: p.Dir(), Dir: dir,
		Times: stop.DefaultTimes, Logf: exit.Logger(c.Stderr, "microvm"),
	})
}

// serviceOf returns the VM whose service a process is part of, by its control group, or
// "" if there is none.
func serviceOf(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return serviceIn(string(data))
}

// serviceIn returns the VM in the lines of /proc/PID/cgroup, cgroups(7), or "". The
// processes of a service may be in control groups below that of the service.
func serviceIn(groups string) string {
	for line := range strings.Lines(groups) {
		for part := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if name, ok := unit.VMOf(part); ok {
				return name
			}
		}
	}
	return ""
}

// hypervisorOf returns the process that runs plan in dir.
func hypervisorOf(ctx context.Context, host statedir.Host, plan *hypervisor.Plan, dir string) (*process.Process, error) {
	if ssh := plan.Shutdown.SSH; ssh != nil {
		return stop.KeyOwner(dir, ssh.Key)
	}
	if plan.Shutdown.Control == nil || plan.Shutdown.Control.Socket == "" {
		return nil, exit.WithHint(fmt.Errorf("the guest cannot be asked to shut down (%s)", plan.Shutdown.Why), "stop it with: microvm stop NAME")
	}
	return stop.SocketOwner(ctx, dir, plan.Shutdown.Control.Socket, runners(host, dir)...)
}
