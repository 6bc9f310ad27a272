package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"microvm/test/need"
)

func TestManualHasEveryCommandAndFlag(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("man", "man"); code != 0 {
		t.Fatal(&h.stderr)
	}
	page := func(name string) string {
		data, err := os.ReadFile(filepath.Join(h.dir, "man", name+".1"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	whole := page("microvm")
	for _, cmd := range newRoot(&Command{}).Commands() {
		if !documented(cmd) {
			continue
		}
		text := page("microvm-" + cmd.Name())
		if !strings.Contains(whole, `\fB`+roff(cmd.Name())+`\fR(1)`) {
			t.Errorf("microvm(1) does not name %s", cmd.Name())
		}
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !f.Hidden && !strings.Contains(text, roff("--"+f.Name)) {
				t.Errorf("microvm-%s(1) has no --%s", cmd.Name(), f.Name)
			}
		})
	}
	for _, want := range []string{".SH EXIT STATUS", "NO_COLOR", `MICROVM_STATE_DIR`, `MICROVM_UNIT_DIR`, `MICROVM_STOP_TIMEOUT`, `MICROVM_WAIT`} {
		if !strings.Contains(whole, want) {
			t.Errorf("microvm(1) has no %q", want)
		}
	}
	// Text that troff would treat as a request is escaped.
	if got := roff(".SH a-b \\x"); got != `\&.SH a\-b \ex` {
		t.Errorf("%s", got)
	}
	t.Run("groff", func(t *testing.T) {
		groff := need.Program(t, "groff")
		pages, _ := filepath.Glob(filepath.Join(h.dir, "man", "*.1"))
		if out, err := exec.Command(groff, append([]string{"-man", "-ww", "-Tutf8", "-z"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("groff says %v: %s", err, out)
		}
	})
}
