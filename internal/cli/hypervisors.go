package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"microvm/internal/hypervisor"
)

// hypervisorsOptions are the flags of hypervisors.
type hypervisorsOptions struct{ json bool }

func newHypervisors(c *Command) *cobra.Command {
	var o hypervisorsOptions
	cmd := &cobra.Command{
		Use:   "hypervisors",
		Short: "Print what each hypervisor supports",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runHypervisors(c, o) },
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the table as JSON")
	return cmd
}

func runHypervisors(c *Command, o hypervisorsOptions) error {
	table, err := hypervisor.Table()
	if err != nil {
		return err
	}
	if o.json {
		return c.json(table)
	}
	w := tabwriter.NewWriter(c.Stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "HYPERVISOR\tNETWORK\tMULTI-QUEUE\tMACVTAP-FD\tSHARES\tDEVICES\tSHUTDOWN\tVSOCK\tREADINESS\tBALLOON\tVIRTIO-MEM")
	for _, name := range slices.Sorted(maps.Keys(table)) {
		t := table[name]
		row := []string{
			name, joined(t.Interfaces), joined(t.TapMultiQueue), yes(t.MacvtapByFD), joined(t.Shares), joined(t.Devices),
			joined(t.Shutdown), t.Vsock, either(t.GuestReadiness, "guest", "vmm"), yes(t.Balloon), yes(t.HotplugMem),
		}
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// joined returns a list as one cell, "-" if it is empty.
func joined(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}

func yes(b bool) string { return either(b, "yes", "-") }

func either(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}
