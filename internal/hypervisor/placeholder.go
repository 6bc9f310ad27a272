package hypervisor

import (
	"fmt"
	"strconv"
	"strings"
)

// Placeholders in Plan.Argv stand for the few values that are known only when the VM
// starts. A literal "@{" in an argument is written as "@{{".
const (
	placeholderOpen  = "@{"
	placeholderClose = "}"
	literalOpen      = "@{{"
)

// MacvtapFD is the placeholder for the descriptor of one queue, counted from
// 0, of the macvtap interface id.
func MacvtapFD(id string, queue int) string {
	return placeholderOpen + "macvtap:" + id + ":" + strconv.Itoa(queue) + placeholderClose
}

// MacvtapDevice is the placeholder for the character device of the macvtap
// interface id, for hypervisors that open it themselves.
func MacvtapDevice(id string) string {
	return placeholderOpen + "macvtap-device:" + id + placeholderClose
}

// packageDir is the placeholder for the absolute path of the runner package.
const packageDir = placeholderOpen + "package" + placeholderClose

// NotifyPort is the placeholder for the vsock port on which the host listens
// for the guest's notifications.
const NotifyPort = placeholderOpen + "notify-port" + placeholderClose

// ShutdownKey is the placeholder for the public key, new at every start, with which the
// host logs in to shut the guest down: a line of authorized_keys in base64.
const ShutdownKey = placeholderOpen + "shutdown-key" + placeholderClose

// TSCKHz is the placeholder for the rate of the host's time stamp counter in kHz, or 0 if
// that is not known.
const TSCKHz = placeholderOpen + "tsc-khz" + placeholderClose

// TSCKHzWithoutKVM is TSCKHz, or 0 if /dev/kvm can be opened: a guest under KVM has better
// ways to find the rate.
const TSCKHzWithoutKVM = placeholderOpen + "tsc-khz-without-kvm" + placeholderClose

// Literal escapes a string from the spec, so that Expand returns it unchanged.
func Literal(arg string) string {
	return strings.ReplaceAll(arg, placeholderOpen, literalOpen)
}

// Expand replaces every placeholder in arg by what value returns for its name, such as
// "macvtap:ID:QUEUE" or "notify-port". It returns an error if value does, or if a
// placeholder is not closed.
func Expand(arg string, value func(name string) (string, error)) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(arg, placeholderOpen)
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		if after, ok := strings.CutPrefix(rest, "{"); ok {
			out.WriteString(placeholderOpen)
			arg = after
			continue
		}
		name, after, closed := strings.Cut(rest, placeholderClose)
		if !closed {
			return "", fmt.Errorf("argument %q: placeholder %q is not closed", arg, placeholderOpen+rest)
		}
		v, err := value(name)
		if err != nil {
			return "", fmt.Errorf("argument %q: %w", arg, err)
		}
		out.WriteString(v)
		arg = after
	}
}
