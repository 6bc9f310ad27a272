package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/hypervisor"
	"microvm/internal/runner"
	"microvm/internal/spec"
)

// showOptions are the flags of show.
type showOptions struct{ json bool }

func newShow(c *Command) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:   "show DIR|NAME|SPEC",
		Short: "Show how a VM is run, and the command line of its hypervisor",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runShow(c, o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the plan as JSON")
	return cmd
}

func runShow(c *Command, o showOptions, arg string) error {
	plan, err := planOf(c, arg)
	if err != nil {
		return err
	}
	if o.json {
		return c.json(plan)
	}
	printPlan(c, plan)
	return nil
}

// planOf returns the plan of a DIR, NAME or SPEC.
func planOf(c *Command, arg string) (*hypervisor.Plan, error) {
	info, err := os.Stat(arg)
	switch {
	case c.named(arg):
	case err == nil && info.IsDir():
		p, err := runner.Open(arg)
		if err != nil {
			return nil, err
		}
		defer func() { _ = p.Close() }()
		return p.Plan()
	case err == nil:
		s, err := spec.ParseFile(arg, c.Host.StateDir, hypervisor.Rules)
		if err != nil {
			return nil, err
		}
		return newBuilder(c, exec.LookPath).Compile(s)
	case strings.ContainsAny(arg, "/") || filepath.Ext(arg) == ".json":
		return nil, fmt.Errorf("read %s: %w", arg, err)
	}
	v, err := c.vm(arg)
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
