package kvm

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// program, in real mode: mov al, 42; out 0x80, al.
var program = []byte{0xb0, answer, 0xe6, 0x80}

const (
	setTSSAddr = 0xae47
	setRegs    = 0x4090ae82
	getSregs   = 0x8138ae83
	setSregs   = 0x4138ae84

	exitIO = 2
)

// prepareVM reserves what Intel's CPUs need for real mode: three pages outside of the
// guest's memory.
func prepareVM(vm uintptr) error {
	if _, err := ioctl(vm, setTSSAddr, 0xfffbd000); err != nil {
		return fmt.Errorf("set the address of the task state: %w", err)
	}
	return nil
}

// prepareCPU makes the CPU start at our page instead of the firmware.
func prepareCPU(_, cpu uintptr) error {
	var sregs [0x138]byte
	if _, err := ioctl(cpu, getSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return fmt.Errorf("read the virtual CPU's segments: %w", err)
	}
	// The code segment is the first: its base, limit and selector.
	binary.NativeEndian.PutUint64(sregs[0:], 0)
	binary.NativeEndian.PutUint16(sregs[12:], 0)
	if _, err := ioctl(cpu, setSregs, uintptr(unsafe.Pointer(&sregs))); err != nil {
		return fmt.Errorf("set the virtual CPU's segments: %w", err)
	}
	var regs [18]uint64
	const rip, rflags = 16, 17
	regs[rip], regs[rflags] = guestAddress, 2
	if _, err := ioctl(cpu, setRegs, uintptr(unsafe.Pointer(&regs))); err != nil {
		return fmt.Errorf("set the virtual CPU's registers: %w", err)
	}
	return nil
}

// checkAnswer checks that the guest wrote the answer to the port.
func checkAnswer(state []byte) error {
	reason := binary.NativeEndian.Uint32(state[exitReason:])
	if reason != exitIO {
		return fmt.Errorf("the guest exited with reason %d instead of output", reason)
	}
	at := binary.NativeEndian.Uint64(state[exitUnion+8:])
	if at >= uint64(len(state)) || state[at] != answer {
		return fmt.Errorf("the guest did not write %d", answer)
	}
	return nil
}
