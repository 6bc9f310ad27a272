package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// shells start each shell as a person has it whose distribution set up its
// completions, without a configuration of its own. zsh of Debian's does not look
// where that of others does.
var shells = map[string]string{
	"bash": "source /usr/share/bash-completion/bash_completion",
	"zsh":  "exec zsh -f -i",
	"fish": "exec fish --private",
}

// ready is what a shell has to be told first, once it is there.
var ready = map[string]string{
	"zsh": "fpath=(/usr/share/zsh/site-functions $fpath); autoload -U compinit; compinit -D -u",
}

func TestShellsCompleteCommandsAndVMs(t *testing.T) {
	in(t, "container")
	install(t, spec("complete-me", nil))
	install(t, spec("complete-it", nil))
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.WriteFile(filepath.Join(home, "empty.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for shell, start := range shells {
		t.Run(shell, func(t *testing.T) {
			p := newPane(t, "export HOME="+home+"; cd; "+start)
			p.keys(t, ready[shell], "Enter")
			p.keys(t, "echo is here | tr a-z A-Z", "Enter") // it has read all before
			p.shows(t, `(?m)^IS HERE$`)
			p.keys(t, "clear", "Enter")
			// A shell takes a moment to ask the command, and keys in between for what it
			// does then: they wait until it has no other process any more.
			p.keys(t, "microvm stat", "Tab")
			p.shows(t, `(?m)microvm status *$`)
			p.keys(t, "comp", "Tab")
			p.shows(t, `microvm status complete-`)
			p.idle(t)
			p.keys(t, "m", "Tab")
			p.shows(t, `microvm status complete-me`)
			p.keys(t, "Enter")
			p.shows(t, `(?m)^directory +/var/lib/microvms/complete-me`)
			// One that is named already is not offered.
			p.keys(t, "clear", "Enter", "microvm start complete-me comp", "Tab")
			p.shows(t, `microvm start complete-me complete-it`)
			// The flags of microvm.nix's command, and those of a word.
			p.keys(t, "C-c")
			p.keys(t, "clear", "Enter", "microvm -Ru complete-me comp", "Tab")
			p.shows(t, `microvm -Ru complete-me complete-it`)
			p.keys(t, "C-c")
			p.keys(t, "clear", "Enter", "microvm create x --sp", "Tab")
			p.shows(t, `microvm create x --spec`)
			p.keys(t, "C-c")
			p.keys(t, "clear", "Enter", "microvm create x --spec em", "Tab")
			p.shows(t, `microvm create x --spec empty.json`)
		})
	}
}

func TestManualIsInstalled(t *testing.T) {
	in(t, "container")
	sh(t, "cd /usr/share/man/man1 && grep -q 'EXIT STATUS' microvm.1 && grep -q 'takes over' microvm-console.1")
}
