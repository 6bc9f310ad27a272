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
		Short: "Print what a VM's runner will do, and its command line",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runShow(c, o, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the plan as JSON")
	return cmd
}

func runShow(c *Command, o showOptions, word string) error {
	plan, err := planOf(c, word)
	if err != nil {
		return err
	}
	if o.json {
		return c.json(plan)
	}
	printPlan(c, plan)
	return nil
}

// planOf finds what a person means by DIR, NAME or SPEC.
func planOf(c *Command, word string) (*hypervisor.Plan, error) {
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
		return newBuilder(c, exec.LookPath).Compile(s)
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
