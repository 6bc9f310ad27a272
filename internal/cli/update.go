package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/exit"
	"microvm/internal/printable"
	"microvm/internal/statedir"
	"microvm/internal/systemd"
	"microvm/internal/term"
	"microvm/internal/vm"
)

// updateOptions are the flags of update.
type updateOptions struct{ all, restart, dryRun, json bool }

// updated is the result for one VM.
type updated struct {
	Name string `json:"name"`
	// Before and After are packages.
	Before  string `json:"before,omitempty"`
	After   string `json:"after,omitempty"`
	Changed bool   `json:"changed"`
	// Restarted reports whether the update restarted the VM.
	Restarted bool     `json:"restarted"`
	Diff      []string `json:"diff,omitempty"`
	Error     string   `json:"error,omitempty"`
	err       error
}

func newUpdate(c *Command) *cobra.Command {
	var o updateOptions
	cmd := &cobra.Command{
		Use:   "update [NAME… | --all]",
		Short: "Rebuild VMs from their source and install the result",
		Long: "Rebuild VMs from their source and install the result.\n" +
			"A running VM keeps running the package that it was started with. With --restart it\n" +
			"is restarted if another package is installed, and a VM that is down is started if\n" +
			"it was named.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return runUpdate(ctx, c, o, args)
		},
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "update every VM that has a flake or a spec")
	cmd.Flags().BoolVarP(&o.restart, "restart", "R", false, "restart VMs that changed")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "build and show what would change, but install nothing")
	cmd.Flags().BoolVar(&o.json, "json", false, "print the result for each VM as JSON")
	return cmd
}

func runUpdate(ctx context.Context, c *Command, o updateOptions, names []string) error {
	switch {
	case o.all && len(names) > 0:
		return exit.Usage(errors.New("VM names and --all are mutually exclusive"))
	case !o.all && len(names) == 0:
		return exit.Usage(errors.New("a VM name or --all is required"))
	}
	if o.all {
		var err error
		if names, err = updatable(c.Host); err != nil {
			return err
		}
	}
	s, err := c.vms(names)
	if err != nil {
		return err
	}
	if err := needsRoot("update VMs"); err != nil {
		return err
	}
	results := updateAll(ctx, c, o, s.vms)
	errs := make([]error, len(results))
	for i, r := range results {
		errs[i] = r.err
	}
	if o.json {
		for _, m := range s.missing {
			results = append(results, updated{Name: m.name, Error: exit.Text(m)})
		}
		err = c.json(results)
	}
	return errors.Join(err, s.outcome(errs))
}

// updatable returns the names of the VMs that --all updates.
func updatable(host statedir.Host) ([]string, error) {
	names, err := host.Names()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		v, err := host.VM(name)
		if err != nil {
			return nil, err
		}
		from, err := v.Origin()
		if err != nil {
			return nil, err
		}
		if from.Toplevel == "" && (from.Flake != "" || from.Spec != "") || hasOriginOfItsOwn(v) {
			out = append(out, name)
		}
	}
	return out, nil
}

// hasOriginOfItsOwn reports whether a VM seems to come from microvm.nix with a flake.
// Such a VM is not updated, which --all has to report.
func hasOriginOfItsOwn(v statedir.VM) bool {
	if v.Created() || !v.Installed() {
		return false
	}
	for _, name := range []string{"flake", "spec"} {
		if _, err := os.Lstat(filepath.Join(v.Dir(), name)); err == nil {
			return true
		}
	}
	return false
}

// updateAll updates VMs, several at a time.
func updateAll(ctx context.Context, c *Command, o updateOptions, vms []statedir.VM) []updated {
	names := make([]string, len(vms))
	for i, v := range vms {
		names[i] = v.Name
	}
	p := term.NewProgress(c.Stderr, names)
	results := make([]updated, len(vms))
	inParallel(len(vms), func(i int) {
		r := updated{Name: vms[i].Name}
		if r.err = ctx.Err(); r.err == nil {
			r.err = updateOne(ctx, c, o, vms[i], p, &r)
		}
		if errors.Is(r.err, context.Canceled) {
			r.err = fmt.Errorf("%s: interrupted before anything changed", r.Name)
		}
		if r.err != nil {
			r.Error = exit.Text(r.err)
		}
		p.Done(r.Name)
		results[i] = r
	})
	return results
}

func updateOne(ctx context.Context, c *Command, o updateOptions, v statedir.VM, p *term.Progress, r *updated) error {
	from, err := updateOrigin(v)
	if err != nil {
		return err
	}
	p.Step(v.Name, "building from %s", from.Flake+from.Spec)
	messages := &term.LineWriter{Keep: linesOfFailure, Each: func(line string) {
		p.Detail(v.Name, line)
		if strings.Contains(line, "warning:") {
			p.Print(c.Stderr, v.Name+": "+line+"\n")
		}
	}}
	s, err := buildFrom(ctx, c, v.Name, from, messages)
	_ = messages.Close() // never fails
	if err != nil {
		return buildError(v.Name, err, messages)
	}
	defer s.remove()
	if err := compare(ctx, v, s, r); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !o.dryRun {
		// Not interruptible: it takes milliseconds, and must not be left half done.
		if err := v.Install(context.WithoutCancel(ctx), s.path, statedir.Origin{}, systemd.Reload); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	report(c.Stdout, o, v, s, p, *r)
	if o.restart && !o.dryRun {
		return restartIfNeeded(ctx, c, o, v, p, r)
	}
	return nil
}

// buildError adds the last messages of nix to the error of a build: they were not
// printed yet.
func buildError(name string, err error, messages *term.LineWriter) error {
	if errors.Is(err, context.Canceled) || len(messages.Kept()) == 0 {
		return fmt.Errorf("%s: %w", name, err)
	}
	return fmt.Errorf("%s: %w%s", name, err, term.Indent(messages.Kept()))
}

// compare fills in what the installation of s would change.
func compare(ctx context.Context, v statedir.VM, s source, r *updated) error {
	var err error
	if r.After, err = v.Place(s.path); err != nil {
		return fmt.Errorf("%s: %w", v.Name, err)
	}
	r.Before, err = os.Readlink(filepath.Join(v.Dir(), "current"))
	r.Changed = err != nil || r.Before != r.After
	if !r.Changed || r.Before == "" {
		return nil
	}
	r.Diff = difference(ctx, r.Before, s.path)
	return nil
}

// difference returns the changes between two packages: of their closures, if both are in
// the Nix store, and of their plans.
func difference(ctx context.Context, before, path string) []string {
	var out []string
	after, err := filepath.EvalSymlinks(path)
	const store = "/nix/store/"
	if err == nil && strings.HasPrefix(before, store) && strings.HasPrefix(after, store) {
		// This is only information, so an error is ignored.
		if text, err := nix(ctx, io.Discard, "store", "diff-closures", before, after); err == nil {
			out = append(out, printable.Lines(text)...)
		}
	}
	a, okA := vm.PlanAt(before)
	b, okB := vm.PlanAt(path)
	if okA && okB && !a.Foreign && !b.Foreign {
		out = append(out, planDiff(a, b)...)
	}
	return out
}

// report prints what changed.
func report(out io.Writer, o updateOptions, v statedir.VM, s source, p *term.Progress, r updated) {
	if o.json {
		return
	}
	name, booted := v.Name, v.BootedTarget() != ""
	lines := fmt.Sprintf("%s: is up to date\n", name)
	switch {
	case r.Changed && o.dryRun && o.restart && booted:
		lines = fmt.Sprintf("%s: would change and be restarted\n", name)
	case r.Changed && o.dryRun:
		lines = fmt.Sprintf("%s: would change\n", name)
	case r.Changed:
		lines = fmt.Sprintf("%s: updated\n", name)
	}
	paint := term.PaletteOf(out)
	for _, d := range r.Diff {
		colour := map[byte]string{'-': term.Red, '+': term.Green}[d[0]]
		lines += "  " + paint(colour, d) + "\n"
	}
	for _, n := range s.notes {
		if strings.HasPrefix(n, "warning: ") || strings.HasPrefix(n, "hint: ") {
			lines += name + ": " + n + "\n"
		}
	}
	var b strings.Builder
	b.WriteString(lines)
	if r.Changed && !o.restart && !o.dryRun && booted {
		sayKeepsRunning(&b, name)
	}
	p.Print(out, b.String())
}

// restartIfNeeded restarts a VM that does not run the installed package.
func restartIfNeeded(ctx context.Context, c *Command, o updateOptions, v statedir.VM, p *term.Progress, r *updated) error {
	current, err := os.Readlink(filepath.Join(v.Dir(), "current"))
	if err != nil {
		return fmt.Errorf("%s: read the installed package: %w", v.Name, err)
	}
	booted := v.BootedTarget()
	switch {
	case booted == current:
		if !o.json {
			p.Print(c.Stdout, v.Name+": no restart is needed\n")
		}
		return nil
	case booted == "" && o.all:
		return nil // it is down, and was not named
	}
	p.Step(v.Name, "restarting")
	stdout := p.Writer(c.Stdout)
	if o.json {
		stdout = io.Discard
	}
	failed, err := runJobs(ctx, stdout, p.Writer(c.Stderr), systemd.Restart, []statedir.VM{v})
	if err != nil {
		return fmt.Errorf("%s: %w", v.Name, err)
	}
	r.Restarted = len(failed) == 0
	return several(failed, 1)
}
