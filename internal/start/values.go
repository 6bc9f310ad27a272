package start

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"microvm/internal/hypervisor"
	"microvm/internal/kvm"
	"microvm/internal/netif"
)

// startValues are the values of a plan's placeholders, which only a start knows.
type startValues struct {
	files       *macvtapFiles
	listener    *guestListener
	shutdownKey string
	packageDir  string
	// arch is the guest's.
	arch string
}

func (v *startValues) value(name string) (string, error) {
	switch name {
	case "notify-port":
		return strconv.Itoa(int(v.listener.port())), nil
	case "tsc-khz", "tsc-khz-without-kvm":
		return tscPlaceholder(name != "tsc-khz", kvm.Runs(v.arch))
	case "package":
		return v.packageDir, nil
	case "shutdown-key":
		return v.shutdownKey, nil
	}
	if id, ok := strings.CutPrefix(name, "macvtap-device:"); ok {
		index, err := netif.Index(id)
		return fmt.Sprintf("/dev/tap%d", index), err
	}
	return v.files.fd(name)
}

// expandAll expands the placeholders of a command line.
func (v *startValues) expandAll(argv []string) ([]string, error) {
	out := make([]string, len(argv))
	for i, arg := range argv {
		var err error
		if out[i], err = hypervisor.Expand(arg, v.value); err != nil {
			return nil, fmt.Errorf("expand the plan's command line: %w", err)
		}
	}
	return out, nil
}

// write writes the generated files that the hypervisor reads.
func (v *startValues) write(files []hypervisor.GeneratedFile) error {
	for _, g := range files {
		content, err := hypervisor.Expand(g.Content, v.value)
		if err != nil {
			return fmt.Errorf("expand the plan's file %s: %w", g.Path, err)
		}
		if err := os.WriteFile(g.Path, []byte(content), 0o600); err != nil {
			return explain(g.Path, fmt.Errorf("write %s: %w", g.Path, cause(err)))
		}
	}
	return nil
}
