package systemd

import (
	"context"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// State is the current state of a service.
type State struct {
	// Active and Sub are ActiveState and SubState. Result is the result of the last
	// run, as in $SERVICE_RESULT, systemd.exec(5).
	Active, Sub, Result string
	// Unmet are the unit's conditions and assertions that did not hold at the last
	// start, written as in the unit's file. If none is known to have failed, they are
	// those that were not checked, since systemd unloads inactive units.
	Unmet []string
	// NotUp are the units that it requires and that are not active.
	NotUp []Unit
}

// LookAt returns the state of a service, which is loaded if needed.
func LookAt(ctx context.Context, unit string) (State, error) {
	conn, err := dial(ctx)
	if err != nil {
		return State{}, err
	}
	defer func() { _ = conn.Close() }()
	var path dbus.ObjectPath
	err = conn.Object(managerName, managerPath).
		CallWithContext(ctx, managerInterface+".LoadUnit", 0, unit).Store(&path)
	if err != nil {
		return State{}, fmt.Errorf("load %s: %w", unit, err)
	}
	props := map[string]dbus.Variant{}
	for _, of := range []string{unitInterface, serviceInterface} {
		var some map[string]dbus.Variant
		err := conn.Object(managerName, path).
			CallWithContext(ctx, propertiesInterface+".GetAll", 0, of).Store(&some)
		if err != nil {
			return State{}, fmt.Errorf("get properties of %s: %w", unit, err)
		}
		for name, value := range some {
			props[name] = value
		}
	}
	text := func(name string) string {
		s, _ := props[name].Value().(string)
		return s
	}
	s := State{Active: text("ActiveState"), Sub: text("SubState"), Result: text("Result")}
	s.Unmet = append(unmet(props["Conditions"]), unmet(props["Asserts"])...)
	// If the service became active since, its ExecCondition= succeeded.
	if entered, _ := props["ActiveEnterTimestampMonotonic"].Value().(uint64); s.Result == "exec-condition" || entered == 0 {
		s.Unmet = append(s.Unmet, commands("ExecCondition=", props["ExecCondition"])...)
	}
	var required []string
	for _, name := range []string{"Requires", "Requisite", "BindsTo"} {
		units, _ := props[name].Value().([]string)
		required = append(required, units...)
	}
	if len(required) == 0 {
		return s, nil
	}
	units, err := listUnits(ctx, conn, required)
	if err != nil {
		return State{}, err
	}
	for _, u := range units {
		if u.Active != "active" {
			s.NotUp = append(s.NotUp, u)
		}
	}
	return s, nil
}

// commands returns the command lines of a property such as ExecCondition. Its entries
// are program, arguments, whether a failure is ignored, and the last run.
func commands(name string, property dbus.Variant) []string {
	list, _ := property.Value().([][]any)
	var out []string
	for _, c := range list {
		if len(c) < 2 {
			continue
		}
		if words, ok := c[1].([]string); ok {
			out = append(out, name+strings.Join(words, " "))
		}
	}
	return out
}

// unmet returns the failed entries of the property Conditions or Asserts of a unit, or
// those not checked if none is known to have failed. An entry is the name, whether it
// is a triggering condition, whether it is negated, the value, and a state: 0 if it was
// not checked, negative if it failed.
func unmet(property dbus.Variant) []string {
	var list []struct {
		Name              string
		Triggers, Negated bool
		Value             string
		State             int32
	}
	if property.Value() == nil || property.Store(&list) != nil {
		return nil
	}
	var failed, unknown []string
	for _, c := range list {
		line := c.Name + "="
		if c.Triggers {
			line += "|"
		}
		if c.Negated {
			line += "!"
		}
		line += c.Value
		switch {
		case c.State < 0:
			failed = append(failed, line)
		case c.State == 0:
			unknown = append(unknown, line)
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return unknown
}
