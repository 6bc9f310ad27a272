package start

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheRateOfTheTimeStampCounterIsTheSameTwice(t *testing.T) {
	first, err := tscKHz()
	if err != nil {
		t.Fatal(err)
	}
	if first == 0 {
		t.Skip("this machine has no time stamp counter")
	}
	second, err := tscKHz()
	if err != nil {
		t.Fatal(err)
	}
	if first < 100_000 || first > 20_000_000 {
		t.Errorf("%d kHz is no processor's rate", first)
	}
	// 500 ppm is what NTP may correct, and more than the measurement should err.
	if d := first - second; d*d > (first/2000)*(first/2000) {
		t.Errorf("measured %d and %d kHz", first, second)
	}
}

// TestHeldStandardInputNeverEnds runs itself with /dev/null as standard input.
func TestHeldStandardInputNeverEnds(t *testing.T) {
	if os.Getenv("HOLD_STDIN") != "" {
		if err := holdStdin(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Exec("/bin/cat", []string{"cat"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHeldStandardInputNeverEnds$")
	cmd.Env = append(os.Environ(), "HOLD_STDIN=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("a program that reads to the end of its standard input ended: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
}
