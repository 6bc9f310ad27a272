package cli

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

func TestThereIsNoColourOffATerminalAndNoneWithNoColor(t *testing.T) {
	var b bytes.Buffer
	if got := paletteOf(&b)(red, "x"); got != "x" {
		t.Errorf("in a buffer it is %q", got)
	}
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminal can be had: ", err)
	}
	defer func() { _ = pty.Close() }()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if got := paletteOf(pty)(red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("on a terminal it is %q", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := paletteOf(pty)(red, "x"); got != "x" {
		t.Errorf("with NO_COLOR it is %q", got)
	}
}

func TestTheExitCodeSaysHowManyFailed(t *testing.T) {
	missing, broken := errNoVM{"x", "/d"}, errors.New("broken")
	for _, test := range []struct {
		errs []error
		of   int
		want int
	}{
		{[]error{missing}, 2, exitPartly},
		{[]error{broken, nil}, 2, exitPartly},
		{[]error{missing, missing}, 2, exitNoVM},
		{[]error{missing, broken}, 2, 1},
	} {
		err := several(test.errs, test.of)
		var e severalError
		if !errors.As(err, &e) || e.code() != test.want {
			t.Errorf("%v of %d: %v", test.errs, test.of, err)
		}
	}
	if err := several([]error{nil, nil}, 2); err != nil {
		t.Errorf("all went well: %v", err)
	}
	if err := several([]error{missing}, 1); !errors.As(err, new(errNoVM)) {
		t.Errorf("one of one: %v", err)
	}
}

func TestADiffHasWhatIsInOneListOnly(t *testing.T) {
	got := diffLines([]string{"a", "-m 256M", "b", "c"}, []string{"a", "-m 300M", "b", "c", "d"})
	if want := []string{"- -m 256M", "+ -m 300M", "+ d"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTimesAndSizesAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 3*time.Hour + 5*time.Minute: "3h05m", 49 * time.Hour: "2d01h",
	} {
		if got := ago(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0K", 2048: "2K", 3 << 20: "3.0M", 300 << 20: "300M", 1536 << 20: "1.5G"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
