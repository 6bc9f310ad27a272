package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// consoleVM is a VM whose guest answers on its console.
func consoleVM(t *testing.T, name string) {
	t.Helper()
	install(t, spec(name, nil))
	want(t, 1, []string{name + " is not running\nmicrovm: hint: start it with: microvm start " + name}, "console", name)
	want(t, 0, nil, "start", name)
	waitFor(t, name, "test guest is up")
}

func TestConsolesTakeTurnsOnTerminals(t *testing.T) {
	in(t, "container")
	const name = "console"
	consoleVM(t, name)
	first := newPane(t, "microvm console console; stty -a | tr ' ;' '\\n' | grep -x -- '-*echo'")
	first.shows(t, `attached; leave with ctrl-\]`)
	first.keys(t, "echo to the first", "Enter")
	first.shows(t, `(?m)^to the first$`)

	second := newPane(t, "microvm console console")
	second.shows(t, "another console is attached and has the keyboard")
	second.shows(t, `(?m)^to the first$`) // said before it came
	second.keys(t, "echo from the second", "Enter")
	second.shows(t, "this console only reads")
	first.keys(t, "echo to both", "Enter")
	first.shows(t, `(?m)^to both$`)
	second.shows(t, `(?m)^to both$`)

	// ctrl-c is the guest's.
	first.keys(t, "C-c")
	first.keys(t, "Enter", "echo still here", "Enter")
	first.shows(t, `(?m)^still here$`)
	first.keys(t, "C-]")
	first.shows(t, "detached")
	second.keys(t, "echo it is mine", "Enter")
	second.shows(t, `(?m)^it is mine$`)
	first.shows(t, `(?m)^echo$`) // and not -echo: the terminal is as it was

	want(t, 0, nil, "stop", name)
	second.shows(t, "the VM went down; start it with: microvm start console")
	eventually(t, patience, "test -z \"$(find /run/microvm -name '*console*')\"") // the helpers follow the VM
}

func TestConsoleTypesTheTerminalsSizeIfAsked(t *testing.T) {
	in(t, "container")
	consoleVM(t, "sized")
	p := newPane(t, "microvm console --resize sized")
	p.shows(t, "unknown: stty rows 30 columns 150")
	sh(t, "tmux -L "+p.name+" resize-window -t "+p.name+" -x 100 -y 20")
	p.shows(t, "unknown: stty rows 20 columns 100")
	p.keys(t, "C-]")
	p.shows(t, "detached")
}

func TestConsoleWorksInAPipe(t *testing.T) {
	in(t, "container")
	const name = "piped"
	consoleVM(t, name)
	want(t, 2, []string{"leave --resize out"}, "console", name, "--resize")
	// The terminal shows what is typed, in the middle of an answer too: the next line
	// waits for the answer to the first.
	out := sh(t, `d=$(mktemp -d); mkfifo $d/in
timeout 300 microvm console `+name+` <$d/in >$d/out 2>&1 &
exec 3>$d/in
echo echo from a program >&3
until [ "$(grep -c 'from a program' $d/out)" -ge 2 ] || ! kill -0 $!; do sleep 0.1; done
echo down >&3
exec 3>&-
wait $! || true
cat $d/out; rm -r $d`)
	if !strings.Contains(out, "\nfrom a program") && !strings.Contains(out, "\rfrom a program") {
		t.Errorf("the guest's answer is not in %q", out)
	}
	if !strings.Contains(out, "the VM went down") {
		t.Errorf("the end is not explained: %q", out)
	}
}

func TestConsoleIsRootsOnly(t *testing.T) {
	in(t, "container")
	consoleVM(t, "private")
	out, err := exec.Command("setpriv", "--reuid", "nobody", "--clear-groups", "microvm", "console", "private").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "run it with sudo") {
		t.Errorf("user nobody is told %q, %v", out, err)
	}
}
