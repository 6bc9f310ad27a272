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
		Short: "Ask the guest of a VM that is run by hand to go down, and wait for it",
		Long: "Ask the guest of a VM that is run by hand to go down, and wait for it: of package\n" +
			"DIR, run in the current directory, or of a VM that microvm run NAME runs. What\n" +
			"does not go down within 90 s is ended.\n\n" +
			"A VM that runs as a service is stopped with microvm stop: its service would\n" +
			"start it again.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runShutdown(cmd.Context(), c, o, args[0])
		},
	}
	asBuiltFlag(cmd, &o.asBuilt)
	return cmd
}

// runShutdown asks the guest of a package that runs in the current directory, or
// of a VM.
func runShutdown(ctx context.Context, c *Command, o shutdownOptions, word string) error {
	p, dir, err := openInUse(c, word)
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
	// Its own service calls this as ExecStop=, with microvm.nix's units.
	if name := serviceOf(target.PID()); name != "" && name != serviceOf(os.Getpid()) {
		return fmt.Errorf("%s runs as a service, which starts it again; stop it with: microvm stop %s", name, name)
	}
	return stop.Hypervisor(ctx, stop.Request{
		Process: target, Plan: plan, Package: p.Dir(), Dir: dir,
		Times: stop.DefaultTimes, Logf: exit.Logger(c.Stderr, unit.Main.Program),
	})
}

// serviceOf is the VM as whose service a process runs, by its control group;
// empty where it runs as none.
func serviceOf(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return serviceIn(string(data))
}

// serviceIn finds the VM in the lines of /proc/PID/cgroup, cgroups(7). The processes
// of a service may have groups of their own below its.
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

// hypervisorOf is the process that runs plan in dir.
func hypervisorOf(ctx context.Context, host statedir.Host, plan *hypervisor.Plan, dir string) (*process.Process, error) {
	if ssh := plan.Shutdown.SSH; ssh != nil {
		return stop.KeyOwner(dir, ssh.Key)
	}
	if plan.Shutdown.Control == nil || plan.Shutdown.Control.Socket == "" {
		return nil, fmt.Errorf("this VM cannot be asked to go down (%s); end it with: microvm stop NAME", plan.Shutdown.Why)
	}
	return stop.SocketOwner(ctx, dir, plan.Shutdown.Control.Socket, runners(host, dir)...)
}
