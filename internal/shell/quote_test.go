package shell

import (
	"os/exec"
	"testing"
)

func TestTheShellReadsTheWordBack(t *testing.T) {
	for _, word := range []string{"", "plain", "two words", "it's", "''", `\'`, "$HOME `id` $(id) \"x\"", "a\nb", "*", "-n", "\xff"} {
		out, err := exec.Command("sh", "-c", "printf %s. "+Quote(word)).Output()
		if err != nil || string(out) != word+"." {
			t.Errorf("%q: the shell reads %q, %v", word, out, err)
		}
	}
}
