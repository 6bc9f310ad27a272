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
