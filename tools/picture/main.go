// Command picture draws the terminal output of a program, which it reads from
// standard input, as an SVG to standard output. Bold text (SGR 1) starts a step; all
// other escape sequences are dropped.
//
//	make picture
package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"log"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Sizes in pixels, of a font whose characters are 0.6 em wide.
const (
	fontSize = 13
	charW10  = 78 // tenths
	lineH    = 18
	margin   = 16
	// columns is the length at which lines are cut.
	columns = 116
)

var escape = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

func main() {
	if err := draw(os.Stdin, os.Stdout); err != nil {
		log.Fatalf("picture: %v", err)
	}
}

// draw writes the lines of in to out as an SVG.
func draw(in io.Reader, out io.Writer) error {
	var lines []string
	scanner := bufio.NewScanner(in)
	started := false
	for scanner.Scan() {
		// The output of the build before the first step is not part of the picture.
		if started = started || strings.Contains(scanner.Text(), "\x1b[1m"); started {
			lines = append(lines, strings.TrimRight(scanner.Text(), " \r"))
		}
	}
	if err := scanner.Err(); err != nil {
		return err
	}
	width, height := 2*margin+columns*charW10/10, 2*margin+lineH*len(lines)
	w := bufio.NewWriter(out)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	p("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"make demo\">\n", width, height, width, height)
	p("<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#16181d\"/>\n")
	p("<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"%d\" fill=\"#d5d9e0\" xml:space=\"preserve\">\n", fontSize)
	for i, line := range lines {
		style := ""
		if strings.Contains(line, "\x1b[1m") {
			style = " fill=\"#7cc5ff\" font-weight=\"bold\""
		}
		text := cut(escape.ReplaceAllString(line, ""))
		if text != "" {
			p("<text x=\"%d\" y=\"%d\"%s>%s</text>\n", margin, margin+lineH*i+fontSize, style, html.EscapeString(text))
		}
	}
	p("</g>\n</svg>\n")
	return w.Flush()
}

// cut replaces tabs, and cuts a line that is too long.
func cut(line string) string {
	line = strings.ReplaceAll(line, "\t", "    ")
	if utf8.RuneCountInString(line) <= columns {
		return line
	}
	return string([]rune(line)[:columns-1]) + "…"
}
