package term

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// Progress shows what is being done to each of several VMs: on a terminal in one line per
// VM that is redrawn, elsewhere in one line per step. Its methods can be called
// concurrently.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer
	names []string
	steps map[string]string
	// drawn is the number of lines drawn on the terminal; -1 if out is not a terminal.
	drawn int
}

// NewProgress returns a Progress that shows on out what is done to the VMs of names.
func NewProgress(out io.Writer, names []string) *Progress {
	p := &Progress{out: out, names: names, steps: map[string]string{}, drawn: -1}
	if IsTerminal(out) {
		p.drawn = 0
	}
	return p
}

// Step shows what is done to a VM now.
func (p *Progress) Step(name, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps[name] = fmt.Sprintf(format, args...)
	if p.drawn < 0 {
		Say(p.out, name, "%s", p.steps[name])
		return
	}
	p.erase()
	p.draw()
}

// Detail adds how far the current step is, on a terminal only.
func (p *Progress) Detail(name, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn < 0 {
		return
	}
	step, _, _ := strings.Cut(p.steps[name], ": ")
	p.steps[name] = step + ": " + text
	p.erase()
	p.draw()
}

// Print prints text, which consists of whole lines, on out, above the progress.
func (p *Progress) Print(out io.Writer, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	_, _ = io.WriteString(out, text)
	p.draw()
}

// Done removes a VM from the progress.
func (p *Progress) Done(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	delete(p.steps, name)
	p.draw()
}

// erase removes the drawn lines from the terminal.
func (p *Progress) erase() {
	if p.drawn > 0 {
		_, _ = fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.drawn)
		p.drawn = 0
	}
}

func (p *Progress) draw() {
	if p.drawn < 0 {
		return
	}
	columns, _ := Size(p.out)
	for _, name := range p.names {
		step, ok := p.steps[name]
		if !ok {
			continue
		}
		line := []rune(name + ": " + step)
		_, _ = fmt.Fprintln(p.out, string(line[:min(len(line), columns-1)]))
		p.drawn++
	}
}

// Writer returns a writer that prints on out, above the progress. Each write must consist
// of whole lines.
func (p *Progress) Writer(out io.Writer) io.Writer { return progressWriter{p, out} }

// progressWriter is what Progress.Writer returns.
type progressWriter struct {
	p   *Progress
	out io.Writer
}

// Write implements io.Writer.
func (w progressWriter) Write(text []byte) (int, error) {
	w.p.Print(w.out, string(text))
	return len(text), nil
}
