package systemd

import "github.com/godbus/dbus/v5"

// Property returns one of a unit's properties, as Properties has them; the zero
// value where it has none, or one of another type.
func Property[T any](props map[string]dbus.Variant, name string) T {
	value, _ := props[name].Value().(T)
	return value
}
