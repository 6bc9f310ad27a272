package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"microvm/internal/printable"
)

// progress shows what is being done to each of several VMs: on a terminal a
// line a VM that is kept current, elsewhere a line for each step.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	names []string
	steps map[string]string
	// drawn is how many lines of a terminal are ours; -1 where it is none.
	drawn int
}

func newProgress(out io.Writer, names []string) *progress {
	p := &progress{out: out, names: names, steps: map[string]string{}, drawn: -1}
	if terminal(out) {
		p.drawn = 0
	}
	return p
}

// step says what is done to a VM now.
func (p *progress) step(name, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps[name] = fmt.Sprintf(format, args...)
	if p.drawn < 0 {
		say(p.out, name, "%s", p.steps[name])
		return
	}
	p.erase()
	p.draw()
}

// detail says how far the step is, where there is a terminal to see it.
func (p *progress) detail(name, text string) {
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

// print prints lines above the progress.
func (p *progress) print(out io.Writer, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	_, _ = io.WriteString(out, text)
	p.draw()
}

// done says that nothing more is done to a VM.
func (p *progress) done(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	delete(p.steps, name)
	p.draw()
}

// erase takes our lines from the terminal.
func (p *progress) erase() {
	if p.drawn > 0 {
		_, _ = fmt.Fprintf(p.out, "\x1b[%dA\x1b[J", p.drawn)
		p.drawn = 0
	}
}

func (p *progress) draw() {
	if p.drawn < 0 {
		return
	}
	columns, _ := screen(p.out)
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

// lineWriter calls each for every line that is written to it, without what a
// terminal would obey, and keeps the last ones.
type lineWriter struct {
	each func(string)
	kept []string
	rest string
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest += string(p)
	for {
		i := strings.IndexAny(w.rest, "\n\r")
		if i < 0 {
			return len(p), nil
		}
		w.line(w.rest[:i])
		w.rest = w.rest[i+1:]
	}
}

// Close takes a last line that has no end.
func (w *lineWriter) Close() error {
	w.line(w.rest)
	w.rest = ""
	return nil
}

func (w *lineWriter) line(text string) {
	text = strings.TrimSpace(printable.Line(text))
	if text == "" {
		return
	}
	w.kept = tail(append(w.kept, text), linesOfFailure)
	if w.each != nil {
		w.each(text)
	}
}
