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

	"microvm/internal/hypervisor"
	"microvm/internal/safepath"
)

// Messages of kvmtool's control socket, include/kvm/kvm-ipc.h: a header of two
// words, type and length, and so many bytes; all in the host's byte order.
// kvmtool takes one connection after the other: open late, close early.
const (
	kvmtoolBalloon = 1
	kvmtoolStat    = 3
	kvmtoolState   = 8

	kvmtoolRunning = 0 // KVM_VMSTATE_RUNNING, include/kvm/kvm.h
)

// Statistics of a guest's balloon, linux/virtio_balloon.h: so many bytes each, a
// tag and a value.
const (
	kvmtoolStatSize  = 10
	kvmtoolStatTotal = 5
	// maxStats is far more than there are: 16 of 10 bytes.
	maxStats = 4096
)

// kvmtool speaks on the control socket of one VM as lkvm's own commands do, which
// wait without end and take errors for success.
type kvmtool struct {
	silent
	conn *net.UnixConn
	path string
	// memory is the VM's, in MiB.
	memory int
	// guestTells says that the guest may be asked; hypervisor.Control.
	guestTells bool
}

func dialKvmtool(ctx context.Context, dir string, c hypervisor.Control) (*kvmtool, error) {
	conn, err := safepath.DialBeneath(ctx, dir, c.Socket, unix.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("kvmtool's socket: %w", err)
	}
	return &kvmtool{
		conn: conn, path: filepath.Join(dir, c.Socket), memory: c.Memory,
		// A package of an earlier version named the memory only of those that may not.
		guestTells: c.GuestTells || c.Memory == 0,
	}, nil
}

// Close implements Client.
func (k *kvmtool) Close() error { return k.conn.Close() }

// CtrlAltDel implements Client.
func (k *kvmtool) CtrlAltDel(context.Context) error {
	return errNoWay("kvmtool", "press keys, nor ask its guest otherwise")
}

// PowerButton implements Client.
func (k *kvmtool) PowerButton(context.Context) error {
	return errNoWay("kvmtool", "press a power button, nor ask its guest otherwise")
}

// bound makes a read or write end when ctx does, and in any case after a while.
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

// receive reads until whole says that an answer is there.
func (k *kvmtool) receive(ctx context.Context, whole func([]byte) bool) error {
	defer k.bound(ctx)()
	answer := make([]byte, 0, maxStats)
	for !whole(answer) {
		if len(answer) == cap(answer) {
			return fmt.Errorf("kvmtool's socket %s: the answer is longer than %d bytes; is another program behind this socket?", k.path, maxStats)
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
		err = errors.New("no answer in time")
	}
	return fmt.Errorf("kvmtool's socket %s: %w", k.path, err)
}

// Running implements Client: the guest's CPUs have threads and are not paused.
// The socket is there earlier, and then says the same.
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

// GuestMemory implements Client. kvmtool itself does not say how big the balloon
// is, so the guest's own figure is all there is, where it may be asked.
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

// SetGuestMemory implements Client. kvmtool moves the balloon by an amount, so it
// is emptied first: an amount that is reckoned from what the guest has counts
// twice what the guest has not followed yet.
func (k *kvmtool) SetGuestMemory(ctx context.Context, guest, whole int) error {
	if err := k.empty(ctx, whole); err != nil {
		return err
	}
	if guest == whole {
		return nil
	}
	return k.inflate(ctx, whole-guest)
}

// empty takes all from the balloon, which holds no more than that. kvmtool passes
// over a wish for more than there is: powers of two from above empty it,
// whatever it holds below the next one.
func (k *kvmtool) empty(ctx context.Context, most int) error {
	for power := bits.Len(uint(max(0, most))); power > 0; power-- {
		if err := k.inflate(ctx, -1<<(power-1)); err != nil {
			return err
		}
	}
	return nil
}

// inflate moves the balloon by so many MiB.
func (k *kvmtool) inflate(ctx context.Context, mib int) error {
	const most = 1 << 22 // 4 TiB in pages just fit into kvmtool's counter
	if mib > most || mib < -most {
		return fmt.Errorf("kvmtool cannot move its balloon by %d MiB; %d is the most", mib, most)
	}
	return k.send(ctx, kvmtoolBalloon, binary.NativeEndian.AppendUint32(nil, uint32(int32(mib))))
}

// total is what the guest says it has, in MiB.
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
		return 0, fmt.Errorf("%w; does the guest have the balloon's driver?", err)
	}
	return int(total >> 20), nil
}
