// Package kvm finds out whether this machine's KVM runs guests: it has one run
// an instruction. A /dev/kvm that opens is not enough, for instance where the
// machine is itself a VM whose hypervisor does not nest. The interface is the
// kernel's document virt/kvm/api.
package kvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is KVM's.
const Device = "/dev/kvm"

// The calls of every architecture, linux/kvm.h.
const (
	getAPIVersion       = 0xae00
	createVM            = 0xae01
	getVCPUMmapSize     = 0xae04
	createVCPU          = 0xae41
	setUserMemoryRegion = 0x4020ae46
	run                 = 0xae80

	apiVersion = 12
)

const (
	// guestAddress is where the guest's only page is.
	guestAddress = 0x1000
	pageSize     = 4096
	// patience is how long one instruction may take.
	patience = 5 * time.Second
	// answer is what the guest says.
	answer = 42
)

// memoryRegion is struct kvm_userspace_memory_region.
type memoryRegion struct {
	slot, flags                uint32
	guestPhysical, size, space uint64
}

// Offsets in struct kvm_run.
const (
	immediateExit = 1
	exitReason    = 8
	exitUnion     = 32
)

// Runs says whether KVM runs guests of that architecture, in the words of a spec, on
// this one. An empty one is this one.
func Runs(arch string) bool {
	ours := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return arch == ours || arch == ""
}

// Probe runs a guest of one instruction on the KVM at path. It returns nil
// where that worked.
func Probe(path string) error {
	// A virtual CPU belongs to the thread that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = device.Close() }()
	version, err := ioctl(device.Fd(), getAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("%s is not KVM: %w", path, err)
	}
	if version != apiVersion {
		return fmt.Errorf("%s has version %d of the interface, not %d", path, version, apiVersion)
	}
	vm, err := ioctl(device.Fd(), createVM, 0)
	if err != nil {
		return fmt.Errorf("make a VM: %w", err)
	}
	defer func() { _ = unix.Close(int(vm)) }()
	page, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map the guest's memory: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	copy(page, program)
	region := memoryRegion{guestPhysical: guestAddress, size: pageSize, space: uint64(uintptr(unsafe.Pointer(&page[0])))}
	if _, err := ioctl(vm, setUserMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("give the VM its memory: %w", err)
	}
	if err := prepareVM(vm); err != nil {
		return err
	}
	cpu, err := ioctl(vm, createVCPU, 0)
	if err != nil {
		return fmt.Errorf("make a virtual CPU: %w", err)
	}
	defer func() { _ = unix.Close(int(cpu)) }()
	size, err := ioctl(device.Fd(), getVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("ask for the size of a virtual CPU's state: %w", err)
	}
	state, err := unix.Mmap(int(cpu), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the virtual CPU's state: %w", err)
	}
	defer func() { _ = unix.Munmap(state) }()
	if err := prepareCPU(vm, cpu); err != nil {
		return err
	}
	if err := enter(cpu, state); err != nil {
		return fmt.Errorf("run a guest's first instruction: %w", err)
	}
	return said(state)
}

var errStuck = errors.New("it does not end")

// enter runs the virtual CPU until the guest wants something.
func enter(cpu uintptr, state []byte) error {
	var late atomic.Bool
	thread := unix.Gettid()
	timer := time.AfterFunc(patience, func() {
		late.Store(true)
		state[immediateExit] = 1
		// Any signal makes the call return; this one means nothing to the runtime.
		_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
	})
	defer timer.Stop()
	for {
		_, err := ioctlOnce(cpu, run, 0)
		if errors.Is(err, unix.EINTR) && late.Load() {
			return errStuck
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// ioctl asks again where a signal got in between: making a VM ends with EINTR
// then, and Go's runtime sends its threads signals of its own.
func ioctl(fd, request, arg uintptr) (uintptr, error) {
	for {
		if r, err := ioctlOnce(fd, request, arg); !errors.Is(err, unix.EINTR) {
			return r, err
		}
	}
}

func ioctlOnce(fd, request, arg uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, arg)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}
