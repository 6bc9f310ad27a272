package term

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestThereIsNoColourOffATerminalAndNoneWithNoColor(t *testing.T) {
	var b bytes.Buffer
	if got := PaletteOf(&b)(Red, "x"); got != "x" {
		t.Errorf("in a buffer it is %q", got)
	}
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminal can be had: ", err)
	}
	defer func() { _ = pty.Close() }()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if got := PaletteOf(pty)(Red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("on a terminal it is %q", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := PaletteOf(pty)(Red, "x"); got != "x" {
		t.Errorf("with NO_COLOR it is %q", got)
	}
}

func TestTimesAndSizesAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 3*time.Hour + 5*time.Minute: "3h05m", 49 * time.Hour: "2d01h",
	} {
		if got := Ago(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0K", 2048: "2K", 3 << 20: "3.0M", 300 << 20: "300M", 1536 << 20: "1.5G"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

func TestATableIsAlignedWhateverItsColours(t *testing.T) {
	paint := func(colour, text string) string { return strings.Repeat("*", len(colour)) + text }
	var b bytes.Buffer
	Table(&b, paint, []string{"NAME", "STATE"}, [][]Cell{{{Text: "web"}, {Text: "active", Colour: Green}}, {{Text: "größer", Colour: Dim}, {Text: "x"}}})
	if got, want := b.String(), "*NAME    *STATE\nweb     **active\n*größer  x\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOnlyYesIsYes(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, " YES \n": true, "yes": true, "n\n": false, "": false, "yess\n": false, "\ny\n": false} {
		var asked bytes.Buffer
		got, err := Confirm(strings.NewReader(answer), &asked, "Sure?")
		if err != nil || got != want || asked.String() != "Sure? [y/N] " {
			t.Errorf("%q: %v, %v; asked %q", answer, got, err, &asked)
		}
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for _, in := range []io.Reader{nil, file} {
		if _, err := Confirm(in, io.Discard, "Sure?"); err == nil || err.Error() != "stdin is not a terminal" {
			t.Errorf("with %v: %v", in, err)
		}
	}
}

func TestALineWriterKeepsTheLastLinesWithoutWhatATerminalObeys(t *testing.T) {
	var seen []string
	w := &LineWriter{Keep: 2, Each: func(line string) { seen = append(seen, line) }}
	for _, part := range []string{"one\rt", "wo\n\n \x1b[31mthree\x1b[0m", "\nfour"} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"one", "two", "three", "four"}; !slices.Equal(seen, want) || !slices.Equal(w.Kept(), want[2:]) {
		t.Errorf("%q, kept %q", seen, w.Kept())
	}
}

func TestProgressOffATerminalIsALineAStep(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, []string{"web"})
	p.Step("web", "building from %s", "x")
	p.Detail("web", "half")
	_, _ = io.WriteString(p.Writer(&b), "above\n")
	p.Done("web")
	if got, want := b.String(), "web: building from x\nabove\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
