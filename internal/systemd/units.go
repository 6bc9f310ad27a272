package systemd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"microvm/internal/exit"
)

// Unit is one entry of ListUnits.
type Unit struct {
	Name, Description, Load, Active, Sub, Following string

	Path    dbus.ObjectPath
	JobID   uint32
	JobType string
	JobPath dbus.ObjectPath
}

// ListUnits returns the loaded units whose names match any of the patterns, in one
// call. An inactive unit to which no other unit refers is not loaded, and thus not in
// the list.
func ListUnits(ctx context.Context, patterns ...string) ([]Unit, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return listUnits(ctx, conn, patterns)
}

func listUnits(ctx context.Context, conn *dbus.Conn, patterns []string) ([]Unit, error) {
	var units []Unit
	call := conn.Object(managerName, managerPath).
		CallWithContext(ctx, managerInterface+".ListUnitsByPatterns", 0, []string{}, patterns)
	if err := call.Store(&units); err != nil {
		return nil, fmt.Errorf("list units: %w", err)
	}
	return units, nil
}

// Infinity is a time without limit.
const Infinity time.Duration = math.MaxInt64

// StopTimeout returns the TimeoutStopSec= of a service that is loaded, Infinity if it
// has no limit.
func StopTimeout(ctx context.Context, unit string) (time.Duration, error) {
	conn, err := dial(ctx)
	if err != nil {
		return 0, fmt.Errorf("get TimeoutStopSec= of %s: %w", unit, err)
	}
	defer func() { _ = conn.Close() }()
	var value dbus.Variant
	path := dbus.ObjectPath(managerPath + "/unit/" + systemd.PathBusEscape(unit))
	err = conn.Object(managerName, path).
		CallWithContext(ctx, propertiesInterface+".Get", 0, serviceInterface, "TimeoutStopUSec").Store(&value)
	if err != nil {
		return 0, fmt.Errorf("get TimeoutStopSec= of %s: %w", unit, err)
	}
	us, ok := value.Value().(uint64)
	if !ok {
		return 0, fmt.Errorf("get TimeoutStopSec= of %s: unexpected type %T", unit, value.Value())
	}
	return fromMicroseconds(us), nil
}

// fromMicroseconds converts a time limit of systemd. 0 means no limit, too,
// systemd.service(5).
func fromMicroseconds(us uint64) time.Duration {
	if us == 0 || us > uint64(Infinity/time.Microsecond) {
		return Infinity
	}
	return time.Duration(us) * time.Microsecond
}

// Properties returns the properties of loaded services by the units' names, those of
// units in general and those of services in one map.
func Properties(ctx context.Context, units ...Unit) (map[string]map[string]dbus.Variant, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	out := make(map[string]map[string]dbus.Variant, len(units))
	for _, u := range units {
		out[u.Name] = map[string]dbus.Variant{}
		for _, of := range []string{unitInterface, serviceInterface} {
			var props map[string]dbus.Variant
			err := conn.Object(managerName, u.Path).
				CallWithContext(ctx, propertiesInterface+".GetAll", 0, of).Store(&props)
			if err != nil {
				return nil, fmt.Errorf("get properties of %s: %w", u.Name, err)
			}
			for name, value := range props {
				out[u.Name][name] = value
			}
		}
	}
	return out, nil
}

// Watch sends to changed whenever a unit or a job of the manager may have changed,
// until ctx is done, and once at first. It does not block if an earlier notice was not
// received yet, so changed should have a buffer of one.
func Watch(ctx context.Context, changed chan<- struct{}) error {
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	// The private socket delivers all signals without a subscription, and a call of
	// Subscribe may never be answered there.
	if os.Geteuid() != 0 {
		if err := subscribe(ctx, conn); err != nil {
			return fmt.Errorf("subscribe to systemd's signals: %w", err)
		}
	}
	// For changes before the subscription.
	changed <- struct{}{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-signals:
			if !ok {
				return exit.WithHint(errors.New("connection to systemd was closed"), "try again")
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// subscribe makes the bus deliver the manager's signals, and the manager send them.
func subscribe(ctx context.Context, conn *dbus.Conn) error {
	if err := conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(managerName)); err != nil {
		return err
	}
	return conn.Object(managerName, managerPath).CallWithContext(ctx, managerInterface+".Subscribe", 0).Err
}
