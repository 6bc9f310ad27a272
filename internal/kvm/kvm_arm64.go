package kvm

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// program: str w0, [x1], with the answer in w0 and an address without memory in x1.
var program = []byte{0x20, 0x00, 0x00, 0xb9}

const (
	setOneReg       = 0x4010aeac
	armVCPUInit     = 0x4020aeae
	preferredTarget = 0x8020aeaf

	// KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE; registers are counted
	// in words of four bytes.
	coreReg = 0x6030000000100000
	regX0   = coreReg
	regX1   = coreReg + 2
	regPC   = coreReg + 2*32

	exitMMIO = 6
	nowhere  = 0x100000
)

func prepareVM(uintptr) error { return nil }

func prepareCPU(vm, cpu uintptr) error {
	var target [8]uint32 // struct kvm_vcpu_init
	if _, err := ioctl(vm, preferredTarget, uintptr(unsafe.Pointer(&target))); err != nil {
		return fmt.Errorf("get the preferred kind of virtual CPU: %w", err)
	}
	if _, err := ioctl(cpu, armVCPUInit, uintptr(unsafe.Pointer(&target))); err != nil {
		return fmt.Errorf("initialize the virtual CPU: %w", err)
	}
	for _, reg := range [][2]uint64{{regX0, answer}, {regX1, nowhere}, {regPC, guestAddress}} {
		value := reg[1]
		one := [2]uint64{reg[0], uint64(uintptr(unsafe.Pointer(&value)))} // struct kvm_one_reg
		if _, err := ioctl(cpu, setOneReg, uintptr(unsafe.Pointer(&one))); err != nil {
			return fmt.Errorf("set the virtual CPU's registers: %w", err)
		}
	}
	return nil
}

// checkAnswer checks that the guest wrote the answer to the address.
func checkAnswer(state []byte) error {
	reason := binary.NativeEndian.Uint32(state[exitReason:])
	if reason != exitMMIO {
		return fmt.Errorf("the guest exited with reason %d instead of a write", reason)
	}
	if binary.NativeEndian.Uint64(state[exitUnion:]) != nowhere || state[exitUnion+8] != answer {
		return fmt.Errorf("the guest did not write %d", answer)
	}
	return nil
}
