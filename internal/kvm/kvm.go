// Package kvm tests whether this machine's KVM runs guests, by running a guest of one
// instruction. That /dev/kvm can be opened is not enough, for example in a VM whose
// hypervisor does not support nesting. The interface is that of the kernel's document
// virt/kvm/api.
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

// Device is the path of KVM's device node.
const Device = "/dev/kvm"

// Ioctls of all architectures, linux/kvm.h.
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
	// guestAddress is the guest-physical address of the guest's only page.
	guestAddress = 0x1000
	pageSize     = 4096
	// patience is how long the guest may take for its instructions.
	patience = 5 * time.Second
	// answer is what the guest writes.
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

// Runs reports whether KVM on this architecture runs guests of arch, which is named as in a
// spec. An empty arch means this machine's.
func Runs(arch string) bool {
	ours := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return arch == ours || arch == ""
}

// Probe runs a guest of one instruction on the KVM at path. It returns nil if that works.
func Probe(path string) error {
	// A virtual CPU must be used by the thread that created it.
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
		return fmt.Errorf("%s has API version %d, not %d", path, version, apiVersion)
	}
	vm, err := ioctl(device.Fd(), createVM, 0)
	if err != nil {
		return fmt.Errorf("create a VM: %w", err)
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
		return fmt.Errorf("set the VM's memory: %w", err)
	}
	if err := prepareVM(vm); err != nil {
		return err
	}
	cpu, err := ioctl(vm, createVCPU, 0)
	if err != nil {
		return fmt.Errorf("create a virtual CPU: %w", err)
	}
	defer func() { _ = unix.Close(int(cpu)) }()
	size, err := ioctl(device.Fd(), getVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("get the size of a virtual CPU's state: %w", err)
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
		return fmt.Errorf("run the guest: %w", err)
	}
	return checkAnswer(state)
}

var errStuck = fmt.Errorf("timed out after %v", patience)

// enter runs the virtual CPU until the guest exits to us, or patience has passed.
func enter(cpu uintptr, state []byte) error {
	var late atomic.Bool
	thread := unix.Gettid()
	timer := time.AfterFunc(patience, func() {
		late.Store(true)
		state[immediateExit] = 1
		// Any signal makes the call return, and Go's runtime ignores this one.
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

// ioctl repeats the call when a signal interrupts it. Creating a VM fails with EINTR then,
// and Go's runtime sends signals to its threads.
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
