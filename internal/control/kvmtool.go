package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
)

// Messages of kvmtool's control socket, include/kvm/kvm-ipc.h: a header of two words, type
// and length, followed by that many bytes, in the host's byte order. kvmtool serves one
// connection at a time: open late, close early.
const (
	kvmtoolBalloon = 1
	kvmtoolStat    = 3
	kvmtoolState   = 8

	kvmtoolRunning = 0 // KVM_VMSTATE_RUNNING, include/kvm/kvm.h
)

// Statistics of a guest's balloon, linux/virtio_balloon.h. Each has a tag and a value.
const (
	kvmtoolStatSize  = 10
	kvmtoolStatTotal = 5
	// maxStats bounds an answer, in bytes. A guest sends up to 16 statistics.
	maxStats = 4096
)

// kvmtool is a client of a VM's control socket. lkvm's own commands are not used, as they
// wait forever and ignore errors.
type kvmtool struct {
	silent
	conn *net.UnixConn
	path string
	// memory is the VM's memory, in MiB.
	memory int
	// guestTells means that the guest may be asked, see hypervisor.Control.
	guestTells bool
}

func dialKvmtool(ctx context.Context, dir string, c hypervisor.Control) (*kvmtool, error) {
	conn, err := safepath.DialBeneath(ctx, dir, c.Socket, unix.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("kvmtool's socket: %w", err)
	}
	return &kvmtool{
		conn: conn, path: filepath.Join(dir, c.Socket), memory: c.Memory,
		// Earlier versions recorded the memory only for guests that must not be asked.
		guestTells: c.GuestTells || c.Memory == 0,
	}, nil
}

// Close implements Client.
func (k *kvmtool) Close() error { return k.conn.Close() }

// CtrlAltDel implements Client.
func (k *kvmtool) CtrlAltDel(context.Context) error {
	return errNoWay("kvmtool", "press keys")
}

// PowerButton implements Client.
func (k *kvmtool) PowerButton(context.Context) error {
	return errNoWay("kvmtool", "press a power button")
}

// bound makes reads and writes end when ctx does, or after apiTimeout, until the returned
// function is called.
func (k *kvmtool) bound(ctx context.Context) func() {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	_ = k.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = k.conn.SetDeadline(time.Unix(1, 0)) })
	return func() {
		stop()
		cancel()
	}
}

// send sends one message.
func (k *kvmtool) send(ctx context.Context, kind uint32, content []byte) error {
	defer k.bound(ctx)()
	message := binary.NativeEndian.AppendUint32(nil, kind)
	message = binary.NativeEndian.AppendUint32(message, uint32(len(content)))
	if _, err := k.conn.Write(append(message, content...)); err != nil {
		return k.failed(ctx, err)
	}
	return nil
}

// receive reads until whole returns true for what was read.
func (k *kvmtool) receive(ctx context.Context, whole func([]byte) bool) error {
	defer k.bound(ctx)()
	answer := make([]byte, 0, maxStats)
	for !whole(answer) {
		if len(answer) == cap(answer) {
			return otherProgram(fmt.Errorf("kvmtool's socket %s: the answer is longer than %d bytes", k.path, maxStats))
		}
		n, err := k.conn.Read(answer[len(answer):cap(answer)])
		if err != nil {
			return k.failed(ctx, err)
		}
		answer = answer[:len(answer)+n]
	}
	return nil
}

func (k *kvmtool) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("timed out waiting for an answer")
	}
	return fmt.Errorf("kvmtool's socket %s: %w", k.path, err)
}

// Running implements Client. The guest runs when its CPUs have threads and are not paused.
// The socket exists earlier, and then already reports a running VM.
func (k *kvmtool) Running(ctx context.Context) (bool, error) {
	started, err := hasCPUs(k.conn, k.path, "kvm-vcpu-")
	if err != nil || !started {
		return false, err
	}
	if err := k.send(ctx, kvmtoolState, nil); err != nil {
		return false, err
	}
	var state uint32
	err = k.receive(ctx, func(b []byte) bool {
		if len(b) < 4 {
			return false
		}
		state = binary.NativeEndian.Uint32(b)
		return true
	})
	return state == kvmtoolRunning, err
}

// AwaitRunning implements Client.
func (k *kvmtool) AwaitRunning(ctx context.Context) error { return pollRunning(ctx, k.Running) }

// Memory implements Client.
func (k *kvmtool) Memory(context.Context) (int, error) { return known(k.memory) }

// GuestMemory implements Client. kvmtool does not report the size of the balloon, so only the
// guest's own count is available, if the guest may be asked.
func (k *kvmtool) GuestMemory(ctx context.Context) (int, error) {
	if !k.guestTells {
		return 0, ErrUntold
	}
	total, err := k.total(ctx)
	if err != nil {
		return 0, err
	}
	return total, ErrGuestCounts
}

// SetGuestMemory implements Client. kvmtool changes the balloon by an amount. It is emptied
// first, as an amount computed from the guest's current memory would count twice what the
// guest has not followed yet.
func (k *kvmtool) SetGuestMemory(ctx context.Context, guest, whole int) error {
	if err := k.empty(ctx, whole); err != nil {
		return err
	}
	if guest == whole {
		return nil
	}
	return k.inflate(ctx, whole-guest)
}

// empty deflates the balloon, which holds at most most MiB. kvmtool ignores a request for
// more than the balloon holds, so descending powers of two empty it whatever it holds.
func (k *kvmtool) empty(ctx context.Context, most int) error {
	for power := bits.Len(uint(max(0, most))); power > 0; power-- {
		if err := k.inflate(ctx, -1<<(power-1)); err != nil {
			return err
		}
	}
	return nil
}

// inflate changes the balloon by that many MiB; negative numbers deflate it.
func (k *kvmtool) inflate(ctx context.Context, mib int) error {
	const most = 1 << 22 // 4 TiB in pages is the limit of kvmtool's counter
	if mib > most || mib < -most {
		return fmt.Errorf("kvmtool cannot change its balloon by %d MiB: at most %d are possible", mib, most)
	}
	return k.send(ctx, kvmtoolBalloon, binary.NativeEndian.AppendUint32(nil, uint32(int32(mib))))
}

// total returns the guest's total memory by its own count, in MiB.
func (k *kvmtool) total(ctx context.Context) (int, error) {
	if err := k.send(ctx, kvmtoolStat, nil); err != nil {
		return 0, err
	}
	var total uint64
	err := k.receive(ctx, func(b []byte) bool {
		for ; len(b) >= kvmtoolStatSize; b = b[kvmtoolStatSize:] {
			if binary.LittleEndian.Uint16(b) == kvmtoolStatTotal {
				total = binary.LittleEndian.Uint64(b[2:])
				return true
			}
		}
		return false
	})
	if err != nil {
		return 0, exit.WithHint(err, "does the guest have the balloon's driver?")
	}
	return int(total >> 20), nil
}
