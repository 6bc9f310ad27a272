package vfio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"microvm/internal/exit"
)

const (
	// writeTimeout limits a write to sysfs: unbinding from vfio-pci blocks for as long
	// as a process has the device open.
	writeTimeout = 20 * time.Second
	// loadTimeout limits modprobe.
	loadTimeout = 20 * time.Second
)

// loadDriver loads vfio-pci unless it is loaded.
func (s system) loadDriver() error {
	if _, err := os.Stat(s.bus("drivers", driverName)); err == nil {
		return nil
	}
	program, err := s.modprobe()
	if err != nil {
		return fmt.Errorf("load module %s: %w", driverName, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, driverName) //nolint:gosec // the kernel's own helper
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return exit.WithHint(fmt.Errorf("load module %s: %w: %s", driverName, err, bytes.TrimSpace(out)), "check that the kernel has CONFIG_VFIO_PCI")
	}
	if _, err := os.Stat(s.bus("drivers", driverName)); err != nil {
		return fmt.Errorf("load module %s: modprobe succeeded, but the driver is still missing: %w", driverName, err)
	}
	return nil
}

// modprobe returns the path of the program with which the kernel itself loads modules;
// that one is right on every distribution. Otherwise it is searched for in PATH.
func (s system) modprobe() (string, error) {
	path, err := readLine(filepath.Join(s.proc, "sys/kernel/modprobe"))
	if err == nil && filepath.IsAbs(path) {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return exec.LookPath("modprobe")
}

// bindVFIO binds a device to vfio-pci. driver_override is set first, so that no other
// driver binds the device in between.
func (s system) bindVFIO(address string) error {
	d, err := s.read(address)
	if err != nil {
		return err
	}
	if d.driver == driverName {
		return nil
	}
	if err := write(filepath.Join(d.path, "driver_override"), driverName); err != nil {
		return fmt.Errorf("set driver_override to %s: %w", driverName, err)
	}
	if d.driver != "" {
		if err := write(s.bus("drivers", d.driver, "unbind"), address); err != nil {
			return fmt.Errorf("unbind from %s: %w", d.driver, err)
		}
	}
	if err := write(s.bus("drivers_probe"), address); err != nil {
		return fmt.Errorf("bind to %s: %w", driverName, err)
	}
	return s.expect(address, driverName)
}

// expect checks that the device is bound to driver. The kernel does not report a failed
// probe to the writer of drivers_probe or bind.
func (s system) expect(address, driver string) error {
	d, err := s.read(address)
	if err != nil {
		return err
	}
	if d.driver != driver {
		return exit.WithHint(fmt.Errorf("bind to %s: the device is bound to %s", driver, orNone(d.driver)), "read the kernel log: journalctl -k")
	}
	return nil
}

// giveBack restores the driver and the nodes of one device. It is not an error if the
// device no longer exists.
func (s system) giveBack(t Taken) error {
	if !ValidAddress(t.Address) {
		return fmt.Errorf("invalid address %q in the record", t.Address)
	}
	d, err := s.read(t.Address)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// The nodes come first: if vfio-pci had the device before, they stay.
	var faults []error
	for _, n := range t.Nodes {
		if err := n.restore(); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(append(faults, s.rebind(d, t))...)
}

// rebind binds the device to the driver in its record.
func (s system) rebind(d device, t Taken) error {
	override := t.Override
	if override == "" {
		// A newline clears it.
		override = "\n"
	}
	if d.override != t.Override {
		if err := write(filepath.Join(d.path, "driver_override"), override); err != nil {
			return fmt.Errorf("restore driver_override: %w", err)
		}
	}
	if d.driver == t.Driver || t.Unknown && d.driver != driverName {
		return nil
	}
	if d.driver != "" {
		if err := write(s.bus("drivers", d.driver, "unbind"), d.address); err != nil {
			return fmt.Errorf("unbind from %s: %w", d.driver, err)
		}
	}
	if t.Unknown {
		return s.probe(d.address)
	}
	if t.Driver == "" {
		return nil
	}
	if strings.Contains(t.Driver, "/") {
		return fmt.Errorf("invalid driver %q in the record", t.Driver)
	}
	// If the driver has been unloaded since, any driver that matches will do.
	if err := write(s.bus("drivers", t.Driver, "bind"), d.address); err != nil {
		if err := s.probe(d.address); err != nil {
			return err
		}
	}
	return s.expect(d.address, t.Driver)
}

// probe asks the kernel to find a driver for the device; there may be none.
func (s system) probe(address string) error {
	if err := write(s.bus("drivers_probe"), address); err != nil {
		return fmt.Errorf("probe for a driver: %w", err)
	}
	return nil
}

// write writes a value to a file of sysfs. The kernel acts before write(2) returns, and
// a driver may take any time, so the wait is limited. The write itself cannot be
// cancelled.
func write(path, value string) error {
	done := make(chan error, 1)
	go func() { done <- writeNow(path, value) }()
	select {
	case err := <-done:
		return err
	case <-time.After(writeTimeout):
		return exit.WithHint(fmt.Errorf("write %s: timed out after %v", path, writeTimeout), "check whether a process still uses the device")
	}
}

func writeNow(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
