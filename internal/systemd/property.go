package systemd

import "github.com/godbus/dbus/v5"

// Property returns one of the properties that Properties returned for a unit, or the
// zero value if it is missing or of another type.
func Property[T any](props map[string]dbus.Variant, name string) T {
	value, _ := props[name].Value().(T)
	return value
}
