package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"microvm/internal/mode"
)

// newMan makes the command that writes the manual pages, for packagers.
func newMan(c *Command) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages into a directory",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(cmd *cobra.Command, args []string) error { return runMan(cmd.Root(), c.Version, args[0]) },
	}
}

func runMan(root *cobra.Command, version, dir string) error {
	if err := mode.DirAll(dir, mode.Public); err != nil {
		return fmt.Errorf("make a directory for the manual: %w", err)
	}
	for name, text := range manual(root, version) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write a page of the manual: %w", err)
		}
	}
	return nil
}

// manual are the pages by file name: one of the whole, and one a command.
func manual(root *cobra.Command, version string) map[string]string {
	pages := map[string]string{}
	var names []string
	for _, cmd := range root.Commands() {
		if !documented(cmd) {
			continue
		}
		name := "microvm-" + cmd.Name()
		names = append(names, name)
		p := newPage(name, version, cmd.Short)
		p.section("SYNOPSIS")
		p.synopsis(strings.TrimSuffix(cmd.UseLine(), " [flags]"))
		p.section("DESCRIPTION")
		p.text(longOf(cmd))
		p.flags(cmd.NonInheritedFlags())
		p.section("SEE ALSO")
		p.line(`\fBmicrovm\fR(1)`)
		pages[name+".1"] = p.String()
	}
	p := newPage("microvm", version, root.Short)
	p.section("SYNOPSIS")
	p.synopsis("microvm COMMAND [ARGUMENTS]")
	p.section("DESCRIPTION")
	p.text(about)
	p.section("COMMANDS")
	for _, cmd := range root.Commands() {
		if documented(cmd) {
			p.item(`\fB`+roff(cmd.Name())+`\fR(1)`, cmd.Short)
		}
	}
	for _, s := range []struct {
		title string
		items [][2]string
	}{{"EXIT STATUS", exitStatus}, {"ENVIRONMENT", environment}, {"FILES", files}} {
		p.section(s.title)
		for _, i := range s.items {
			p.item(`\fB`+roff(i[0])+`\fR`, i[1])
		}
	}
	p.section("SEE ALSO")
	p.line(`\fB` + roff(strings.Join(names, "(1), ")) + `(1)\fR`)
	pages["microvm.1"] = p.String()
	return pages
}

// documented leaves out what cobra brings and what is for programs.
func documented(cmd *cobra.Command) bool {
	return !cmd.Hidden && cmd.Name() != "help" && cmd.Name() != "completion"
}

func longOf(cmd *cobra.Command) string {
	if cmd.Long != "" {
		return cmd.Long
	}
	return cmd.Short + "."
}

// about, and what follows, is what no command's help says.
const about = "A VM is one file, a spec, compiled into a runner package, installed in the state\n" +
	"directory, and run by systemd as microvm@NAME.service. This command does all of that,\n" +
	"and looks after the VMs.\n\n" +
	"The flags of microvm.nix's command are understood as well: -c NAME, -u NAME, -Ru NAME,\n" +
	"-r NAME, -s NAME, -l and -f FLAKE."

var (
	exitStatus = [][2]string{
		{"0", "It is done."},
		{"1", "It failed; the last line on standard error says why, and what to do."},
		{"2", "The command line is wrong."},
		{"3", "There is no such VM."},
		{"4", "It failed for some of several VMs."},
		{"5", "Somebody else ended it: a start by stopping the VM or the host, a stop by starting the VM."},
		{"6", "The VM was not ready within the time that its unit gives, TimeoutStartSec=; systemd tries again. Or its job waited longer than JobTimeoutSec= gives."},
		{"7", "A condition of the VM's unit does not hold, and systemd skipped it."},
	}
	environment = [][2]string{
		{"MICROVM_STATE_DIR", "Where the VMs are, by default /var/lib/microvms."},
		{"MICROVM_RUNTIME_DIR", "Where the helpers record what they did, by default /run/microvm."},
		{"MICROVM_UNIT_DIR", "Where the links and drop-ins of each VM's unit are, by default /etc/systemd/system.control."},
		{"MICROVM_USER, MICROVM_GROUP", "As whom hypervisors run, by default microvm and kvm."},
		{"MICROVM_STOP_TIMEOUT", "In Environment= of microvm@NAME.service: within how many seconds the VM is down when it is stopped, in place of the unit's TimeoutStopSec=, by default 90. A jailed VM (firecracker.jailer) cannot ask for TimeoutStopSec= and needs both. With TimeoutStopSec=infinity its guest is waited for without limit."},
		{"MICROVM_WAIT", "In Environment= of a VM's units: for how many seconds they wait for interfaces and devices that are not there yet, by default 30; 0 means that they do not."},
		{"MICROVM_SSH", "What microvm ssh runs, by default ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null: a guest's key is not checked. With MICROVM_SSH=ssh it is, as that of the host microvm/NAME."},
		{"NO_COLOR", "Where it is set, there is no colour. Elsewhere there is some on terminals."},
	}
	files = [][2]string{
		{"/var/lib/microvms/NAME", "The VM's directory: its volumes and sockets, and the links current and old."},
		{"/run/microvm/NAME", "What the VM was started with, in the link booted, and what its helpers did for it."},
	}
)
