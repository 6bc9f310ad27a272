package netif

import "strings"

// aliasPrefix comes before the name of the VM in the alias of an interface.
const aliasPrefix = "microvm "

// Alias is what an interface of a VM is marked with.
func Alias(vm string) string { return aliasPrefix + vm }

// Marked returns the interfaces whose alias says that they are a VM's, with
// that VM.
func Marked() (map[string]string, error) {
	all, err := links()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, l := range all {
		if vm, ok := strings.CutPrefix(l.Attrs().Alias, aliasPrefix); ok {
			out[l.Attrs().Name] = vm
		}
	}
	return out, nil
}
