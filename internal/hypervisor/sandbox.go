package hypervisor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"microvm/internal/spec"
)

// allowed is what QEMU's own seccomp filter must allow for a VM. The filter also applies
// to the programs that QEMU starts, and a denied call kills them (system/qemu-seccomp.c).
type allowed struct {
	// elevate allows to change users and sessions, which a shell, smbd and passt do.
	// NoNewPrivileges= of the unit still prevents that a process gains privileges.
	elevate bool
	// spawn allows to start programs.
	spawn bool
	// resources allows to set priorities and to pin threads to CPUs.
	resources bool
	// bridgeHelper means that QEMU starts qemu-bridge-helper, which gains a capability. A
	// process with a seccomp filter cannot, so there is no filter then.
	bridgeHelper bool
	// namespaces means that QEMU starts a program that creates namespaces.
	namespaces bool
	// why lists what starts programs.
	why []string
}

func (w *allowed) program(why string) {
	w.spawn, w.elevate = true, true
	w.why = append(w.why, why)
}

// qemuAllowed returns what the options and extraArgs of a spec need.
func qemuAllowed(s *spec.Spec) allowed {
	var w allowed
	w.bridgeHelper = slices.ContainsFunc(s.Interfaces, func(n spec.Interface) bool { return n.Type == "bridge" })
	if s.Graphics.Enable {
		// Vulkan has a process per process of the guest (virgl_render_server), and
		// drivers and desktops have programs of their own.
		w.spawn = true
		w.why = append(w.why, "graphics")
	}
	for i, arg := range s.QEMU.ExtraArgs {
		value := ""
		if i+1 < len(s.QEMU.ExtraArgs) {
			value = s.QEMU.ExtraArgs[i+1]
		}
		w.argument(option(arg), value)
	}
	return w
}

// option returns an option of QEMU with one dash; two dashes mean the same.
func option(word string) string {
	if strings.HasPrefix(word, "--") {
		return word[1:]
	}
	return word
}

// argument adds what one option of extraArgs needs, see qemu(1).
func (w *allowed) argument(name, value string) {
	switch name {
	case "-netdev", "-nic", "-net":
		w.network(qemuOptions(value, "type"))
	case "-display":
		kind := qemuOptions(value, "type")["type"]
		if slices.Contains([]string{"gtk", "sdl", "spice-app", "egl-headless"}, kind) {
			w.spawn = true
			w.why = append(w.why, "-display "+kind)
		}
	case "-device":
		o := qemuOptions(value, "driver")
		if isOn(o["venus"]) || isOn(o["drm_native_context"]) {
			w.spawn = true
			w.why = append(w.why, "-device "+o["driver"])
		}
	case "-incoming":
		if strings.HasPrefix(value, "exec:") {
			w.program("-incoming exec")
		}
	case "-runas", "-daemonize":
		w.program(name)
	case "-run-with":
		if _, user := qemuOptions(value, "")["user"]; user {
			w.program("-run-with user")
		}
	case "-object":
		if qemuOptions(value, "qom-type")["qom-type"] == "thread-context" {
			w.resources = true
		}
	}
}

// network adds what one network back end needs, see net/tap.c, net/slirp.c and
// net/passt.c.
func (w *allowed) network(o map[string]string) {
	has := func(name string) bool { _, ok := o[name]; return ok }
	switch o["type"] {
	case "bridge":
		w.bridgeHelper = true
	case "tap":
		script := func(name string) bool { return !has(name) || o[name] != "no" && o[name] != "" }
		switch {
		case has("helper"):
			w.bridgeHelper = true
		case !has("fd") && !has("fds") && (script("script") || script("downscript")):
			w.program("the script of a tap")
		}
	case "user":
		if has("smb") {
			w.program("smb=")
		}
		if strings.Contains(o["guestfwd"], "-cmd:") {
			w.program("guestfwd=")
		}
	case "passt":
		w.namespaces = true
		w.program("passt")
	}
}

// qemuOptions parses KEY=VALUE,… or a JSON object. first is the key that may be left out.
// The values of a repeated key are joined by commas.
func qemuOptions(text, first string) map[string]string {
	out := map[string]string{}
	if strings.HasPrefix(text, "{") {
		var object map[string]any
		if json.Unmarshal([]byte(text), &object) == nil {
			for key, value := range object {
				out[key] = fmt.Sprint(value)
			}
		}
		return out
	}
	const comma = "\x00"
	for i, part := range strings.Split(strings.ReplaceAll(text, ",,", comma), ",") {
		key, value, found := strings.Cut(strings.ReplaceAll(part, comma, ","), "=")
		switch {
		case !found && i == 0:
			key, value = first, key
		case !found:
			value = "on"
		}
		if had, again := out[key]; again {
			value = had + "," + value
		}
		out[key] = value
	}
	return out
}

// ownSandbox reports whether extraArgs have -sandbox. With a second one QEMU would install
// both filters, and the stricter one would count.
func ownSandbox(s *spec.Spec) bool {
	return slices.ContainsFunc(s.QEMU.ExtraArgs, func(arg string) bool { return option(arg) == "-sandbox" })
}

// seccomp reports whether the program was built with its seccomp filter. If it cannot be
// asked, it is assumed to have one, like that of every distribution.
func (b *Builder) seccomp(program string) bool {
	if b.Seccomp == nil {
		return true
	}
	has, err := b.Seccomp(program)
	return err != nil || has
}

// sandbox turns on QEMU's own seccomp filter, as strictly as the programs that QEMU has to
// start permit.
func (a *qemuArgs) sandbox(b *Builder, program string) {
	w := qemuAllowed(a.s)
	a.p.Bridge = w.bridgeHelper
	a.p.Namespaces = w.namespaces
	if slices.ContainsFunc(a.s.ForwardPorts, func(f spec.ForwardPort) bool { return f.From == "guest" }) {
		// One nc per connection, in its own session: setsid(2) is one of the calls that
		// elevateprivileges denies.
		w.spawn, w.elevate = true, true
		a.p.Notes = append(a.p.Notes, "forwardPorts from the guest start nc on the host, once per connection: it must be in PATH")
	}
	switch {
	case ownSandbox(a.s):
		a.p.Notes = append(a.p.Notes, "qemu.extraArgs has -sandbox, which replaces the default one")
		return
	case w.bridgeHelper:
		return
	case !b.seccomp(program):
		a.p.Notes = append(a.p.Notes, program+" was built without seccomp, so QEMU has no sandbox of its own")
		return
	}
	if len(w.why) > 0 {
		a.p.Notes = append(a.p.Notes, "QEMU's own sandbox allows it to start programs, for "+strings.Join(w.why, ", ")+" (-sandbox in qemu.extraArgs replaces it)")
	}
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges="+allowDeny(w.elevate)+",spawn="+allowDeny(w.spawn)+",resourcecontrol="+allowDeny(w.resources))
}

func allowDeny(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}
