package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"microvm/internal/term"
	"microvm/internal/vm"
)

// printRows prints VMs as a table.
func printRows(w io.Writer, paint term.Palette, rows []vm.Row) {
	cells := make([][]term.Cell, len(rows))
	for i, r := range rows {
		upFor, memory, cpu, addresses := "-", "-", "-", "-"
		if !r.Since.IsZero() {
			upFor = term.Ago(time.Since(r.Since))
		}
		if r.Memory > 0 {
			memory = term.Bytes(r.Memory)
		}
		if r.CPU > 0 {
			cpu = fmt.Sprintf("%.1fs", r.CPU)
		}
		if vm.Up(r.State) && len(r.Addresses) > 0 {
			addresses = strings.Join(r.Addresses, ",")
		}
		cells[i] = []term.Cell{
			{Text: r.Name}, {Text: r.State, Colour: stateColour(r.State)}, {Text: r.Hypervisor}, {Text: r.Runner, Colour: runnerColour(r.Runner)},
			{Text: upFor}, {Text: memory}, {Text: cpu}, {Text: addresses},
		}
	}
	term.Table(w, paint, []string{"NAME", "STATE", "HYPERVISOR", "RUNNER", "UP", "MEMORY", "CPU", "ADDRESSES"}, cells)
}
