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
)

const (
	// writeTimeout bounds a write to sysfs: unbinding from vfio-pci waits for
	// as long as somebody has the device open.
	writeTimeout = 20 * time.Second
	// loadTimeout bounds modprobe.
	loadTimeout = 20 * time.Second
)

// loadDriver makes sure that the driver is there.
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
		return fmt.Errorf("load module %s: %w: %s; does the kernel have it (CONFIG_VFIO_PCI)?", driverName, err, bytes.TrimSpace(out))
	}
	if _, err := os.Stat(s.bus("drivers", driverName)); err != nil {
		return fmt.Errorf("load module %s: modprobe was content, but the driver is not there: %w", driverName, err)
	}
	return nil
}

// modprobe is the program that the kernel itself loads modules with, which is
// right on every distribution.
func (s system) modprobe() (string, error) {
	path, err := readLine(filepath.Join(s.proc, "sys/kernel/modprobe"))
	if err == nil && filepath.IsAbs(path) {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return exec.LookPath("modprobe")
}

// bindVFIO moves a device to vfio-pci. The override comes first, so that no
// other driver takes the device in between.
func (s system) bindVFIO(address string) error {
	d, err := s.read(address)
	if err != nil {
		return err
	}
	if d.driver == driverName {
		return nil
	}
	if err := write(filepath.Join(d.path, "driver_override"), driverName); err != nil {
		return fmt.Errorf("reserve it for %s: %w", driverName, err)
	}
	if d.driver != "" {
		if err := write(s.bus("drivers", d.driver, "unbind"), address); err != nil {
			return fmt.Errorf("unbind it from %s: %w", d.driver, err)
		}
	}
	if err := write(s.bus("drivers_probe"), address); err != nil {
		return fmt.Errorf("bind it to %s: %w", driverName, err)
	}
	return s.expect(address, driverName)
}

// expect checks that a driver has the device: the kernel reports no failure of
// a probe.
func (s system) expect(address, driver string) error {
	d, err := s.read(address)
	if err != nil {
		return err
	}
	if d.driver != driver {
		return fmt.Errorf("bind it to %s: %s has it now; the kernel's log says why (journalctl -k)", driver, orNone(d.driver))
	}
	return nil
}

// giveBack undoes what was done to one device.
func (s system) giveBack(t Taken) error {
	if !ValidAddress(t.Address) {
		return fmt.Errorf("the record has no valid address")
	}
	d, err := s.read(t.Address)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// First the nodes: they outlive this where vfio-pci had the device before.
	var faults []error
	for _, n := range t.Nodes {
		if err := n.restore(); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(append(faults, s.rebind(d, t))...)
}

// rebind puts the device back to the driver that is recorded.
func (s system) rebind(d device, t Taken) error {
	override := t.Override
	if override == "" {
		// A newline clears it.
		override = "\n"
	}
	if d.override != t.Override {
		if err := write(filepath.Join(d.path, "driver_override"), override); err != nil {
			return fmt.Errorf("clear its reservation: %w", err)
		}
	}
	if d.driver == t.Driver || t.Unknown && d.driver != driverName {
		return nil
	}
	if d.driver != "" {
		if err := write(s.bus("drivers", d.driver, "unbind"), d.address); err != nil {
			return fmt.Errorf("unbind it from %s: %w", d.driver, err)
		}
	}
	if t.Unknown {
		return s.probe(d.address)
	}
	if t.Driver == "" {
		return nil
	}
	if strings.Contains(t.Driver, "/") {
		return fmt.Errorf("the record has no valid driver: %q", t.Driver)
	}
	// The driver may have been unloaded since; then whichever fits may have it.
	if err := write(s.bus("drivers", t.Driver, "bind"), d.address); err != nil {
		if err := s.probe(d.address); err != nil {
			return err
		}
	}
	return s.expect(d.address, t.Driver)
}

// probe has the kernel find a driver; there may be none.
func (s system) probe(address string) error {
	if err := write(s.bus("drivers_probe"), address); err != nil {
		return fmt.Errorf("look for a driver: %w", err)
	}
	return nil
}

// write writes one value to a file of sysfs. The kernel acts before write(2)
// returns, and that may take as long as a driver likes, so it is given a limit;
// the write itself cannot be called off.
func write(path, value string) error {
	done := make(chan error, 1)
	go func() { done <- writeNow(path, value) }()
	select {
	case err := <-done:
		return err
	case <-time.After(writeTimeout):
		return fmt.Errorf("%s: the kernel did not answer within %v; is a process still using the device?", path, writeTimeout)
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
