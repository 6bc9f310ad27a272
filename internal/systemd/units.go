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
)

const (
	unitInterface       = "org.freedesktop.systemd1.Unit"
	serviceInterface    = "org.freedesktop.systemd1.Service"
	propertiesInterface = "org.freedesktop.DBus.Properties"
)

// Unit is one line of ListUnits.
type Unit struct {
	Name, Description, Load, Active, Sub, Following string

	Path    dbus.ObjectPath
	JobID   uint32
	JobType string
	JobPath dbus.ObjectPath
}

// Running says whether systemd is the service manager here, sd_booted(3). What a
// jailed VM's unit runs has only its socket.
func Running() bool {
	for _, path := range []string{running, privateSocket} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// dial connects to the manager: root through its private socket, which costs
// no greeting and works without a bus; others over the bus.
func dial(ctx context.Context) (*dbus.Conn, error) {
	if !Running() {
		return nil, errNoManager
	}
	if os.Geteuid() != 0 {
		conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("reach systemd over the bus: %w", err)
		}
		return conn, nil
	}
	return private(ctx)
}

// ListUnits returns the loaded units whose names match any of the patterns, in
// one call however many there are. A unit that is down and that nothing refers
// to is not loaded, and not in the list.
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
		return nil, fmt.Errorf("ask systemd for its units: %w", err)
	}
	return units, nil
}

// Infinity is a time without limit.
const Infinity time.Duration = math.MaxInt64

// StopTimeout is the TimeoutStopSec= of a service that is loaded.
func StopTimeout(ctx context.Context, unit string) (time.Duration, error) {
	conn, err := dial(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for TimeoutStopSec= of %s: %w", unit, err)
	}
	defer func() { _ = conn.Close() }()
	var value dbus.Variant
	path := dbus.ObjectPath(managerPath + "/unit/" + systemd.PathBusEscape(unit))
	err = conn.Object(managerName, path).
		CallWithContext(ctx, propertiesInterface+".Get", 0, serviceInterface, "TimeoutStopUSec").Store(&value)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for TimeoutStopSec= of %s: %w", unit, err)
	}
	us, ok := value.Value().(uint64)
	if !ok {
		return 0, fmt.Errorf("ask systemd for TimeoutStopSec= of %s: it is no number", unit)
	}
	return fromMicroseconds(us), nil
}

// fromMicroseconds takes systemd's times; 0 is no limit either,
// systemd.service(5).
func fromMicroseconds(us uint64) time.Duration {
	if us == 0 || us > uint64(Infinity/time.Microsecond) {
		return Infinity
	}
	return time.Duration(us) * time.Microsecond
}

// Properties returns the properties of a service that is loaded, those of
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
				return nil, fmt.Errorf("ask systemd for %s: %w", u.Name, err)
			}
			for name, value := range props {
				out[u.Name][name] = value
			}
		}
	}
	return out, nil
}

// Watch sends to changed whenever a unit or a job of the manager changed, until
// ctx ends. One that is not taken yet is enough, so changed should have room
// for one.
func Watch(ctx context.Context, changed chan<- struct{}) error {
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	// Through the private socket one is told everything, unasked; and the reply
	// to Subscribe may never come there.
	if os.Geteuid() != 0 {
		if err := subscribe(ctx, conn); err != nil {
			return fmt.Errorf("listen to systemd: %w", err)
		}
	}
	// What changed before we listened.
	changed <- struct{}{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-signals:
			if !ok {
				return errors.New("systemd has ended the connection; try again")
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// subscribe asks the bus for the manager's signals, and the manager to send
// them.
func subscribe(ctx context.Context, conn *dbus.Conn) error {
	if err := conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(managerName)); err != nil {
		return err
	}
	return conn.Object(managerName, managerPath).CallWithContext(ctx, managerInterface+".Subscribe", 0).Err
}
