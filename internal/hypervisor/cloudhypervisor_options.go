package hypervisor

import (
	"fmt"
	"strings"

	"microvm/internal/shell"
	"microvm/internal/spec"
)

// chOptions takes what is merged with ours out of extraArgs.
func chOptions(s *spec.Spec) (own map[string][]string, rest []string) {
	return splitOptions(s.CloudHypervisor.ExtraArgs, "--vsock", "--platform", "--cpus", "--serial", "--console")
}

// splitOptions takes the values of the named options out of a list of arguments:
// "--option value" and "--option=value".
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

// cutValues takes an option with all its values out of a list of arguments.
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

// optionKey finds KEY=VALUE in comma-separated options.
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

// joinLines puts one shell fragment behind another.
func joinLines(first, second string) string {
	if first == "" {
		return second
	}
	return strings.TrimSuffix(first, "\n") + "\n" + second
}

// refuseDisplay refuses what only QEMU's display has, for those that show windows
// by crosvm's GPU.
func refuseDisplay(s *spec.Spec) spec.Faults {
	var faults spec.Faults
	if !s.Graphics.Enable {
		return nil
	}
	if s.Graphics.Vulkan != nil {
		faults.Addf("graphics.vulkan", "is for QEMU's GPU; that of %s is crosvm's, which has Vulkan as it is; remove it", s.Hypervisor)
	}
	if s.Graphics.Backend != "gtk" && s.Graphics.Backend != "headless" {
		faults.Addf("graphics.backend", "%s", spec.Unknown(s.Graphics.Backend, []string{"gtk"}))
	}
	if s.Graphics.Backend == "headless" {
		faults.Addf("graphics.backend", "headless is for QEMU's display; %s shows windows on the host's Wayland display; remove it, or set hypervisor to qemu", s.Hypervisor)
	}
	return faults
}

// gpuDevice is shell text that starts crosvm's vhost-user GPU, and waits for its
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
`, shell.Quote(crosvm), socket, params, socket, shell.Quote("crosvm's GPU did not make its socket "+s.Graphics.Socket+" within 10 s"))
}
