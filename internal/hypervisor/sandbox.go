package hypervisor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"microvm/internal/spec"
)

// allowed is what QEMU's own seccomp filter has to leave a VM. The filter counts
// for what QEMU starts as well, and a denied call kills it (system/qemu-seccomp.c).
type allowed struct {
	// elevate allows to change users and sessions, which a shell, smbd and passt do.
	// In its unit nobody gains a privilege by that, see NoNewPrivileges=.
	elevate bool
	// spawn allows to start programs.
	spawn bool
	// resources allows to set priorities and to pin threads to CPUs.
	resources bool
	// bridgeHelper says that QEMU starts qemu-bridge-helper, which gains a capability
	// and cannot under any filter: a filter takes that from whom it is for.
	bridgeHelper bool
	// namespaces says that QEMU starts a program which makes namespaces for itself.
	namespaces bool
	// why names what starts programs.
	why []string
}

func (w *allowed) program(why string) {
	w.spawn, w.elevate = true, true
	w.why = append(w.why, why)
}

// qemuAllowed finds what a spec's parts, and its more arguments, start.
func qemuAllowed(s *spec.Spec) allowed {
	var w allowed
	w.bridgeHelper = slices.ContainsFunc(s.Interfaces, func(n spec.Interface) bool { return n.Type == "bridge" })
	if s.Graphics.Enable {
		// Vulkan has a process for each of the guest's (virgl_render_server), and
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

// option is an option as QEMU's manual has it: with one dash. Two are the same.
func option(word string) string {
	if strings.HasPrefix(word, "--") {
		return word[1:]
	}
	return word
}

// argument is for one of the spec's own, as in qemu(1).
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

// network is for one network, net/tap.c, net/slirp.c and net/passt.c.
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

// qemuOptions are KEY=VALUE,… or a JSON object. first is the key that may be left
// out; of a key that comes again the values are joined.
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

// ownSandbox says that the spec has a -sandbox of its own. QEMU would install both
// filters, and the stricter one counts.
func ownSandbox(s *spec.Spec) bool {
	return slices.ContainsFunc(s.QEMU.ExtraArgs, func(arg string) bool { return option(arg) == "-sandbox" })
}

// seccomp says whether the program was built with its filter. One that cannot be
// asked has it, as that of every distribution.
func (b *Builder) seccomp(program string) bool {
	if b.Seccomp == nil {
		return true
	}
	has, err := b.Seccomp(program)
	return err != nil || has
}

// sandbox turns on QEMU's own seccomp filter, as far as what QEMU has to start
// itself allows.
func (a *qemuArgs) sandbox(b *Builder, program string) {
	w := qemuAllowed(a.s)
	a.p.Bridge = w.bridgeHelper
	a.p.Namespaces = w.namespaces
	if slices.ContainsFunc(a.s.ForwardPorts, func(f spec.ForwardPort) bool { return f.From == "guest" }) {
		// One nc for each connection, in a session of its own: setsid(2) is among
		// the calls that QEMU counts as elevating.
		w.spawn, w.elevate = true, true
		a.p.Notes = append(a.p.Notes, "forwardPorts from the guest start nc on the host, once a connection; it has to be in PATH")
	}
	switch {
	case ownSandbox(a.s):
		a.p.Notes = append(a.p.Notes, "qemu.extraArgs has a -sandbox, which takes the place of the usual one")
		return
	case w.bridgeHelper:
		return
	case !b.seccomp(program):
		a.p.Notes = append(a.p.Notes, program+" was built without seccomp, so QEMU has no sandbox of its own")
		return
	}
	if len(w.why) > 0 {
		a.p.Notes = append(a.p.Notes, "QEMU's own sandbox lets it start programs, for "+strings.Join(w.why, ", ")+"; a -sandbox in qemu.extraArgs takes its place")
	}
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges="+allowDeny(w.elevate)+",spawn="+allowDeny(w.spawn)+",resourcecontrol="+allowDeny(w.resources))
}

func allowDeny(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}
