package term

import (
	"fmt"
	"io"
	"strings"
)

// Cell is a cell of a table. Colour may be empty.
type Cell struct{ Text, Colour string }

// Table prints rows in aligned columns. Colours are added after the widths were computed,
// because their sequences have no width.
func Table(w io.Writer, paint Palette, header []string, rows [][]Cell) {
	widths := make([]int, len(header))
	lines := [][]Cell{make([]Cell, len(header))}
	for i, h := range header {
		lines[0][i] = Cell{Text: h, Colour: Bold}
	}
	lines = append(lines, rows...)
	for _, line := range lines {
		for i, c := range line {
			widths[i] = max(widths[i], len([]rune(c.Text)))
		}
	}
	for _, line := range lines {
		var b strings.Builder
		for i, c := range line {
			b.WriteString(paint(c.Colour, c.Text))
			if i < len(line)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-len([]rune(c.Text))+2))
			}
		}
		_, _ = fmt.Fprintln(w, b.String())
	}
}
