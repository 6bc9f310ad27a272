package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/kernel"
	"microvm/internal/launch"
	"microvm/internal/runner"
	"microvm/internal/spec"
	"microvm/internal/unit"
	"microvm/internal/vm"
)

func (c *Command) build() *cobra.Command {
	var out string
	var options buildOptions
	cmd := &cobra.Command{
		Use:   "build SPEC -o DIR",
		Short: "Compile a spec into a runner package",
		Long: "Compile a spec into a runner package. What it is to be warned of, it says on\n" +
			"standard error: a kernel that is not there, among others, for the package may be\n" +
			"for another host.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return exit.Usage(errors.New("where should the package go? Name a directory with -o DIR"))
			}
			s, err := spec.ParseFile(args[0], c.Host.StateDir, hypervisor.Rules)
			if err != nil {
				return err
			}
			o, err := c.packageOptions(options)
			if err != nil {
				return err
			}
			plan, err := runner.Build(c.builder(exec.LookPath), s, out, o)
			if err != nil {
				return err
			}
			c.printf("built %s: %s under %s\n", out, plan.Name, plan.Hypervisor)
			c.printf("ready when: %s (%s)\n", plan.Readiness.Mode, plan.Readiness.Why)
			c.printf("goes down by: %s (%s)\n", plan.Shutdown.Method, plan.Shutdown.Why)
			for _, n := range slices.Concat(plan.Notes, notesOf(absent(plan)), portNotes(plan)) {
				_, _ = fmt.Fprintln(c.Stderr, "microvm: "+n)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "directory of the package")
	// For a build in a directory that is moved, and for another host.
	cmd.Flags().StringVar(&options.at, "at", "", "where the package will be, and stay")
	cmd.Flags().StringVar(&options.programs, "programs", "", "where microvm is installed that the package's scripts call")
	cmd.Flags().StringVar(&options.path, "path", "", "directories to append to PATH in bin/microvm-run")
	for _, name := range []string{"at", "programs", "path"} {
		_ = cmd.Flags().MarkHidden(name)
	}
	return cmd
}

// buildOptions are for those who build packages by a program, as Nix does, to a place
// that they know. A package that somebody builds by hand may go anywhere: the same
// spec gives the same bytes.
type buildOptions struct{ at, programs, path string }

// packageOptions is what a package's scripts are to have in them.
func (c *Command) packageOptions(o buildOptions) (runner.Options, error) {
	options := runner.Options{LibexecDir: c.Host.LibexecDir, BinDir: c.BinDir, At: o.at, Path: o.path}
	if o.programs == "" {
		return options, nil
	}
	// The other installation has the same directories.
	for _, dir := range []*string{&options.LibexecDir, &options.BinDir} {
		below, err := filepath.Rel(filepath.Dir(c.BinDir), *dir)
		if err != nil {
			return options, fmt.Errorf("find %s below %s: %w", *dir, o.programs, err)
		}
		*dir = filepath.Join(o.programs, below)
	}
	return options, nil
}

// builder asks programs for their versions, each once: those that find finds.
func (c *Command) builder(find func(string) (string, error)) *hypervisor.Builder {
	versions := &foreign.Versions{Account: c.unprivileged(), Find: find, Slow: func(program string) {
		_, _ = fmt.Fprintf(c.Stderr, "microvm: asking %s for its version, for %s at most\n", program, foreign.VersionLimit)
	}}
	return &hypervisor.Builder{Version: versions.Of, GuestKernel: kernel.Version, Seccomp: versions.Seccomp}
}

// open finds what a person means by DIR, NAME or SPEC.
func (c *Command) plan(word string) (*hypervisor.Plan, error) {
	info, err := os.Stat(word)
	switch {
	case c.named(word):
	case err == nil && info.IsDir():
		p, err := runner.Open(word)
		if err != nil {
			return nil, err
		}
		defer func() { _ = p.Close() }()
		return p.Plan()
	case err == nil:
		s, err := spec.ParseFile(word, c.Host.StateDir, hypervisor.Rules)
		if err != nil {
			return nil, err
		}
		return c.builder(exec.LookPath).Compile(s)
	case strings.ContainsAny(word, "/") || filepath.Ext(word) == ".json":
		return nil, fmt.Errorf("read %s: %w", word, err)
	}
	v, err := c.vm(word)
	if err != nil {
		return nil, err
	}
	p, err := runner.Open(filepath.Join(v.Dir(), "current"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	return p.Plan()
}

func (c *Command) show() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show DIR|NAME|SPEC",
		Short: "Print what a VM's runner will do, and its command line",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			plan, err := c.plan(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return c.json(plan)
			}
			c.printPlan(plan)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as JSON")
	return cmd
}

func (c *Command) json(v any) error {
	e := json.NewEncoder(c.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (c *Command) printPlan(p *hypervisor.Plan) {
	row := func(label, format string, args ...any) { c.printf("%-12s %s\n", label, fmt.Sprintf(format, args...)) }
	if p.Name != "" {
		row("name", "%s", p.Name)
	}
	row("hypervisor", "%s", p.Hypervisor)
	row("ready when", "%s: %s", p.Readiness.Mode, p.Readiness.Why)
	row("goes down by", "%s: %s", p.Shutdown.Method, p.Shutdown.Why)
	for _, v := range p.Volumes {
		row("volume", "%s, %d MiB, %s", v.Image, v.SizeMiB, v.FSType)
	}
	for _, t := range p.Taps {
		row("tap", "%s", t.ID)
	}
	for _, m := range p.Macvtaps {
		row("macvtap", "%s on %s, %s", m.ID, m.Link, m.Mode)
	}
	for _, s := range p.Shares {
		row("share", "%s: %s", s.Tag, s.Source)
	}
	for _, d := range p.PCI {
		row("device", "%s", d.Address)
	}
	if p.Console != "" {
		row("console", "%s", p.Console)
	}
	for _, n := range p.Notes {
		row("note", "%s", n)
	}
	c.printf("command line\n")
	for _, a := range slices.Concat(p.Argv, p.Landlock) {
		c.printf("  %s\n", a)
	}
}

func (c *Command) shutdown() *cobra.Command {
	var asBuilt bool
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
			return c.shutDown(cmd.Context(), args[0], asBuilt)
		},
	}
	asBuiltFlag(cmd, &asBuilt)
	return cmd
}

// shutDown asks the guest of a package that runs in the current directory, or
// of a VM.
func (c *Command) shutDown(ctx context.Context, word string, asBuilt bool) error {
	p, dir, err := c.openInUse(word)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if asBuilt {
		p.AsBuilt()
	}
	plan, err := p.Plan()
	if err != nil {
		return err
	}
	target, err := c.hypervisorOf(ctx, plan, dir)
	if err != nil {
		return err
	}
	// Its own service calls this as ExecStop=, with microvm.nix's units.
	if name := serviceOf(target.PID()); name != "" && name != serviceOf(os.Getpid()) {
		return fmt.Errorf("%s runs as a service, which starts it again; stop it with: microvm stop %s", name, name)
	}
	l := &launch.Launcher{Stderr: c.Stderr}
	return l.StopPackage(ctx, p, dir, target, launch.DefaultStop)
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

// openInUse opens what inUse finds. Root reads a VM's package only if it is
// root's; a package by hand is that of whoever names it.
func (c *Command) openInUse(word string) (p *runner.Package, dir string, err error) {
	path, dir, err := c.inUse(word)
	if err != nil {
		return nil, "", err
	}
	open := runner.Open
	if os.Geteuid() == 0 && dir != byHand {
		open = runner.OpenTrusted
	}
	p, err = open(path)
	return p, dir, err
}

// byHand is the directory in which a package by hand runs.
const byHand = "."

// inUse is the package that a running VM was started with, and where it runs:
// that of a VM, or one that is run by hand in the current directory.
func (c *Command) inUse(word string) (path, dir string, err error) {
	if info, err := os.Stat(word); !c.named(word) && err == nil && info.IsDir() {
		return word, byHand, nil
	}
	v, err := c.vm(word)
	if err != nil {
		return "", "", err
	}
	if v.BootedTarget() == "" {
		return "", "", vm.NotRunning(v)
	}
	return v.BootedLink(), v.Dir(), nil
}

// hypervisorOf is the process that runs plan in dir.
func (c *Command) hypervisorOf(ctx context.Context, plan *hypervisor.Plan, dir string) (*launch.Process, error) {
	if ssh := plan.Shutdown.SSH; ssh != nil {
		return launch.KeyOwner(dir, ssh.Key)
	}
	if plan.Shutdown.Control == nil || plan.Shutdown.Control.Socket == "" {
		return nil, fmt.Errorf("this VM cannot be asked to go down (%s); end it with: microvm stop NAME", plan.Shutdown.Why)
	}
	return launch.SocketOwner(ctx, dir, plan.Shutdown.Control.Socket, c.runners(dir)...)
}

// runners are the users as whom a VM in dir may run: the hypervisors', and who
// asks, for what he runs himself. Root runs no installed VM.
func (c *Command) runners(dir string) []int {
	var users []int
	if self := os.Geteuid(); self != 0 || dir == byHand {
		users = append(users, self)
	}
	if account, err := c.Host.Account(); err == nil {
		users = append(users, account.UID)
	}
	return users
}

func (c *Command) schema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a spec",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := c.Stdout.Write(spec.Schema())
			return err
		},
	}
}
