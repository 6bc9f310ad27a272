package virtiofsd

import (
	"bufio"
	"io"
	"strings"
	"sync"
	"time"

	"microvm/internal/printable"
)

const (
	// maxLine is the length in bytes at which a line of virtiofsd's output is cut.
	maxLine = 2048
	// keepLines is the number of last lines that are quoted when virtiofsd fails.
	keepLines = 3
)

// logger writes lines that begin with a share's tag. It is safe for concurrent use.
type logger struct {
	mu sync.Mutex
	w  io.Writer
}

// line writes one line. Errors are ignored: they would be reported to the same log.
func (l *logger) line(tag, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.w, tag+": "+text+"\n")
}

// tail keeps the last lines of a virtiofsd's output.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == keepLines {
		copy(t.lines, t.lines[1:])
		t.lines = t.lines[:keepLines-1]
	}
	t.lines = append(t.lines, line)
}

// take returns the lines, separated by " | ", and discards them.
func (t *tail) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.Join(t.lines, " | ")
	t.lines = nil
	return text
}

// copyLines calls line with every line of r. virtiofsd may print file names that
// the guest has chosen, so control sequences are removed.
func copyLines(r io.Reader, line func(string)) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		text, err := in.ReadSlice('\n')
		if s := strings.TrimSpace(printable.Line(string(text))); s != "" {
			line(s)
		}
		for err == bufio.ErrBufferFull {
			_, err = in.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// limiter allows a burst of ten events and then one every ten seconds, so that a
// guest cannot fill the journal.
type limiter struct {
	left int
	next time.Time
}

const (
	limitBurst  = 10
	limitPeriod = 10 * time.Second
)

// ok reports whether an event may be logged now.
func (l *limiter) ok() bool {
	now := time.Now()
	if l.next.IsZero() {
		l.left, l.next = limitBurst, now
	}
	if l.left > 0 {
		l.left--
		l.next = now.Add(limitPeriod)
		return true
	}
	if now.Before(l.next) {
		return false
	}
	l.next = now.Add(limitPeriod)
	return true
}
