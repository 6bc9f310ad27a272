package systemd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"microvm/internal/exit"
)

// Machine is a VM as registered with systemd-machined, org.freedesktop.machine1(5).
type Machine struct {
	Name string
	// UUID is the guest's machine ID, with or without dashes.
	UUID string
	// Leader is the process ID of the hypervisor.
	Leader int
	// Interfaces are the indexes of the VM's network interfaces on the host.
	Interfaces []int
}

const (
	machined      = "org.freedesktop.machine1"
	machinesOf    = machined + ".Manager"
	service       = "microvm"
	class         = "vm"
	unknownMethod = "org.freedesktop.DBus.Error.UnknownMethod"
	noSuchMachine = machined + ".NoSuchMachine"
	noService     = "org.freedesktop.DBus.Error.ServiceUnknown"
)

// callMachined calls methods of machined. The bus starts machined on demand.
func callMachined(ctx context.Context, call func(dbus.BusObject) error) error {
	conn, err := bus(ctx)
	if err != nil {
		return fmt.Errorf("connect to the system bus: %w", err)
	}
	defer func() { _ = conn.Close() }()
	err = call(conn.Object(machined, "/org/freedesktop/machine1"))
	if is(err, noService) {
		err = errors.New("systemd-machined is not installed")
		return exit.WithHint(err, "run: apt-get install systemd-container, or set registerWithMachined to false")
	}
	return err
}

// is reports whether err is the D-Bus error of that name.
func is(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// Register registers a VM with systemd-machined, and replaces the registration that
// an earlier run may have left.
func Register(ctx context.Context, m Machine) error {
	id, err := hex.DecodeString(strings.ReplaceAll(m.UUID, "-", ""))
	if err != nil || len(id) != 16 {
		return fmt.Errorf("register with systemd-machined: invalid UUID %q", m.UUID)
	}
	err = callMachined(ctx, func(manager dbus.BusObject) error {
		if err := unregister(ctx, manager, m.Name); err != nil {
			return err
		}
		err := registerEx(ctx, manager, m, id)
		if is(err, unknownMethod) { // before systemd 259
			err = registerWithNetwork(ctx, manager, m, id)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("register with systemd-machined: %w", err)
	}
	return nil
}

// registerEx passes the leader as a pidfd, which never refers to another process.
func registerEx(ctx context.Context, object dbus.BusObject, m Machine, id []byte) error {
	fd, err := unix.PidfdOpen(m.Leader, 0)
	if err != nil {
		return fmt.Errorf("open hypervisor process %d: %w", m.Leader, err)
	}
	defer func() { _ = unix.Close(fd) }()
	type property struct {
		Name  string
		Value dbus.Variant
	}
	properties := []property{
		{"Id", dbus.MakeVariant(id)}, {"Service", dbus.MakeVariant(service)}, {"Class", dbus.MakeVariant(class)},
		{"LeaderPIDFD", dbus.MakeVariant(dbus.UnixFD(fd))},
	}
	if len(m.Interfaces) > 0 {
		properties = append(properties, property{"NetworkInterfaces", dbus.MakeVariant(indexes(m.Interfaces))})
	}
	return object.CallWithContext(ctx, machinesOf+".RegisterMachineEx", 0, m.Name, properties).Err
}

func registerWithNetwork(ctx context.Context, object dbus.BusObject, m Machine, id []byte) error {
	return object.CallWithContext(ctx, machinesOf+".RegisterMachineWithNetwork", 0,
		m.Name, id, service, class, uint32(m.Leader), "", indexes(m.Interfaces)).Err
}

func indexes(list []int) []int32 {
	out := make([]int32, len(list))
	for i, n := range list {
		out[i] = int32(n)
	}
	return out
}

// Unregister removes a VM from systemd-machined. It is not an error if the VM is not
// registered.
func Unregister(ctx context.Context, name string) error {
	err := callMachined(ctx, func(manager dbus.BusObject) error { return unregister(ctx, manager, name) })
	if err != nil {
		return fmt.Errorf("unregister %s from systemd-machined: %w", name, err)
	}
	return nil
}

func unregister(ctx context.Context, object dbus.BusObject, name string) error {
	err := object.CallWithContext(ctx, machinesOf+".UnregisterMachine", 0, name).Err
	if is(err, noSuchMachine) {
		return nil
	}
	return err
}

// MainPID returns the process ID of a service's main process.
func MainPID(ctx context.Context, unit string) (int, error) {
	c, err := connect(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	p, err := c.GetServicePropertyContext(ctx, unit, "MainPID")
	if err != nil {
		return 0, fmt.Errorf("get MainPID of %s: %w", unit, err)
	}
	pid, _ := p.Value.Value().(uint32)
	if pid == 0 {
		return 0, fmt.Errorf("%s is not running", unit)
	}
	return int(pid), nil
}
