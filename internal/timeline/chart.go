package timeline

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

// block is one column of a bar. The bar of a phase that is shorter than a column is thin.
const (
	block = "█"
	thin  = "▏"
)

// Chart prints a timeline as a bar chart that fits a terminal with the given number of
// columns.
func (t Timeline) Chart(w io.Writer, columns int) error {
	names := 0
	for _, p := range t.Phases {
		names = max(names, len(p.label()))
	}
	width := max(10, columns-names-14)
	for _, p := range t.Phases {
		before, length := t.scale(p, width)
		bar := strings.Repeat(block, length)
		if length == 0 {
			bar = thin
		}
		if _, err := fmt.Fprintf(w, "%-*s %10s  %s%s\n", names, p.label(), Text(p.Took), strings.Repeat(" ", before), bar); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%-*s %10s\n", names, "READY after", Text(t.Total))
	return err
}

func (p Phase) label() string { return strings.TrimSpace(p.Name + " " + p.What) }

// scale returns where the bar of a phase begins and how long it is. width is that of the
// whole timeline, in the same unit.
func (t Timeline) scale(p Phase, width int) (before, length int) {
	if t.Total <= 0 {
		return 0, 0
	}
	at := func(d time.Duration) int { return int(int64(width) * int64(d) / int64(t.Total)) }
	before = min(at(p.Began), width-1)
	return before, min(at(p.Began+p.Took), width) - before
}

// Text returns a duration with three significant digits.
func Text(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// Measures of the SVG image, in pixels.
const (
	drawing   = 960
	labels    = 300
	rowHeight = 26
	top       = 44
)

// colours are those of the bars, in turn.
var colours = []string{"#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2"}

// SVG writes a timeline as an SVG image.
func (t Timeline) SVG(w io.Writer, title string) error {
	var b strings.Builder
	height := top + rowHeight*len(t.Phases) + 16
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="13" role="img">`+"\n", drawing, height)
	fmt.Fprintf(&b, `<title>%s</title>`+"\n", escape(title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", drawing, height)
	fmt.Fprintf(&b, `<text x="12" y="26" font-size="16">%s: READY after %s</text>`+"\n", escape(title), Text(t.Total))
	for i, p := range t.Phases {
		before, length := t.scale(p, drawing-labels-100)
		y := top + i*rowHeight
		fmt.Fprintf(&b, `<text x="12" y="%d">%s</text>`+"\n", y+16, escape(p.label()))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", labels+before, y+3, max(1, length), rowHeight-6, colours[i%len(colours)])
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#444444">%s</text>`+"\n", labels+before+max(1, length)+6, y+16, Text(p.Took))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder never fails
	return b.String()
}
