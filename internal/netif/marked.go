package netif

import "strings"

// aliasPrefix precedes the VM's name in the alias of an interface.
const aliasPrefix = "microvm "

// Alias returns the alias of the interfaces of a VM.
func Alias(vm string) string { return aliasPrefix + vm }

// Marked returns the interfaces that have the alias of a VM: a map from the
// interface's name to the VM's.
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
