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
	// maxLine bounds a line of a virtiofsd's, in bytes; a longer one is cut.
	maxLine = 2048
	// keepLines of the last output explain a failure.
	keepLines = 3
)

// logger writes whole lines from several goroutines, each with its share's tag.
type logger struct {
	mu sync.Mutex
	w  io.Writer
}

// line writes one line. An error has nowhere to go: the log is where it would.
func (l *logger) line(tag, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.w, tag+": "+text+"\n")
}

// tail remembers the last lines of a virtiofsd.
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

// take returns the lines and forgets them.
func (t *tail) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.Join(t.lines, " | ")
	t.lines = nil
	return text
}

// copyLines logs every line of r. The guest chooses file names that virtiofsd
// may print, so nothing gets through that could steer a terminal.
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

// limiter passes ten events at once and then one each ten seconds: what a
// guest can cause must not fill the journal.
type limiter struct {
	left int
	next time.Time
}

const (
	limitBurst  = 10
	limitPeriod = 10 * time.Second
)

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
