package hypervisor

import (
	"fmt"
	"strings"

	"microvm/internal/shell"
	"microvm/internal/spec"
)

// chOptions splits extraArgs into the values of options that are merged with ours, and
// the other arguments.
func chOptions(s *spec.Spec) (own map[string][]string, rest []string) {
	return splitOptions(s.CloudHypervisor.ExtraArgs, "--vsock", "--platform", "--cpus", "--serial", "--console")
}

// splitOptions splits arguments into the values of the named options, written as
// "--option value" or "--option=value", and the other arguments.
func splitOptions(args []string, options ...string) (values map[string][]string, rest []string) {
	values = map[string][]string{}
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(args[i], "=")
		known := false
		for _, o := range options {
			known = known || o == name
		}
		switch {
		case known && inline:
			values[name] = append(values[name], value)
		case known && i+1 < len(args):
			i++
			values[name] = append(values[name], args[i])
		default:
			rest = append(rest, args[i])
		}
	}
	return values, rest
}

// cutValues splits arguments into all values of one option and the other arguments.
func cutValues(args []string, option string) (rest, values []string) {
	mine := false
	for _, arg := range args {
		name, value, inline := strings.Cut(arg, "=")
		switch {
		case name == option && inline:
			values, mine = append(values, value), false
		case strings.HasPrefix(arg, "-"):
			if mine = arg == option; !mine {
				rest = append(rest, arg)
			}
		case mine:
			values = append(values, arg)
		default:
			rest = append(rest, arg)
		}
	}
	return rest, values
}

// optionKey returns the value of key in comma-separated options, and whether it is there.
func optionKey(options []string, key string) (string, bool) {
	for _, o := range options {
		for part := range strings.SplitSeq(o, ",") {
			if value, ok := strings.CutPrefix(part, key+"="); ok {
				return value, true
			}
		}
	}
	return "", false
}

// joinLines joins two fragments of a shell script.
func joinLines(first, second string) string {
	if first == "" {
		return second
	}
	return strings.TrimSuffix(first, "\n") + "\n" + second
}

// refuseDisplay refuses options of QEMU's display for the hypervisors that use crosvm's
// GPU.
func refuseDisplay(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	if !s.Graphics.Enable {
		return nil
	}
	if s.Graphics.Vulkan != nil {
		faults.Addf("graphics.vulkan", "requires QEMU's GPU; %s uses crosvm's, which always has Vulkan", displayName(s.Hypervisor)).Hintf("remove it")
	}
	if s.Graphics.Backend != "gtk" && s.Graphics.Backend != "headless" {
		faults.AddUnknown("graphics.backend", s.Graphics.Backend, []string{"gtk"})
	}
	if s.Graphics.Backend == "headless" {
		faults.Addf("graphics.backend", "headless requires QEMU; %s shows windows on the host's Wayland display", displayName(s.Hypervisor)).
			Hintf("remove it, or set hypervisor to qemu")
	}
	return faults
}

// gpuDevice returns shell commands that start crosvm's vhost-user GPU and wait for its
// socket.
func gpuDevice(s *spec.Spec, crosvm string) string {
	socket := shell.Quote(s.Graphics.Socket)
	const params = `{"context-types":"virgl:virgl2:cross-domain","displays":[{"hidden":true}],"egl":true,"vulkan":true}`
	return fmt.Sprintf(`%s device gpu --socket %s --wayland-sock "$XDG_RUNTIME_DIR/$WAYLAND_DISPLAY" --params '%s' &
tries=100
until [ -S %s ]; do
  tries=$((tries - 1))
  [ $tries -gt 0 ] || { echo %s >&2; exit 1; }
  sleep 0.1
done
`, shell.Quote(crosvm), socket, params, socket, shell.Quote("timed out after 10 s waiting for the socket of crosvm's GPU, "+s.Graphics.Socket))
}
