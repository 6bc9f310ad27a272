package term

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// Progress shows what is being done to each of several VMs: on a terminal a
// line a VM that is kept current, elsewhere a line for each step.
type Progress struct {
	mu    sync.Mutex
	out   io.Writer
	names []string
	steps map[string]string
	// drawn is how many lines of a terminal are ours; -1 where it is none.
	drawn int
}

// NewProgress shows on out what is done to the VMs of names.
func NewProgress(out io.Writer, names []string) *Progress {
	p := &Progress{out: out, names: names, steps: map[string]string{}, drawn: -1}
	if IsTerminal(out) {
		p.drawn = 0
	}
	return p
}

// Step says what is done to a VM now.
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

// Detail says how far the step is, where there is a terminal to see it.
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

// Print prints lines above the progress.
func (p *Progress) Print(out io.Writer, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	_, _ = io.WriteString(out, text)
	p.draw()
}

// Done says that nothing more is done to a VM.
func (p *Progress) Done(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	delete(p.steps, name)
	p.draw()
}

// erase takes our lines from the terminal.
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

// Writer returns a writer to out that prints above the progress.
func (p *Progress) Writer(out io.Writer) io.Writer { return progressWriter{p, out} }

// progressWriter prints above a progress.
type progressWriter struct {
	p   *Progress
	out io.Writer
}

// Write implements io.Writer.
func (w progressWriter) Write(text []byte) (int, error) {
	w.p.Print(w.out, string(text))
	return len(text), nil
}
