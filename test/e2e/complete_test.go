package e2e

import (
	"os"
	"testing"
)

// words is what bash-completion's function of that name does where no word is
// quoted; the test hosts do not have the package.
const words = `_get_comp_words_by_ref() {
  cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
}
`

func TestShellCompletesCommandsAndVMs(t *testing.T) {
	in(t, "container")
	install(t, spec("complete-me", nil))
	install(t, spec("complete-it", nil))
	rc := t.TempDir() + "/rc"
	if err := os.WriteFile(rc, []byte(words+"source /usr/share/bash-completion/completions/microvm\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPane(t, "source "+rc)
	p.keys(t, "microvm stat", "Tab")
	p.shows(t, `(?m)microvm status *$`)
	p.keys(t, "comp", "Tab")
	p.shows(t, `microvm status complete-`)
	p.keys(t, "m", "Tab", "Enter")
	p.shows(t, `(?m)^directory +/var/lib/microvms/complete-me`)
	p.keys(t, "microvm start complete-me comp", "Tab")
	p.shows(t, `microvm start complete-me complete-it`) // one that is named already is not offered
}

func TestManualIsInstalled(t *testing.T) {
	in(t, "container")
	sh(t, "cd /usr/share/man/man1 && grep -q 'EXIT STATUS' microvm.1 && grep -q 'takes over' microvm-console.1")
	sh(t, "bash -n /usr/share/bash-completion/completions/microvm && test -s /usr/share/zsh/site-functions/_microvm && test -s /usr/share/fish/vendor_completions.d/microvm.fish")
}
