package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/test/testutil"
)

// standIn is a VM of standInMemory with a balloon. Each answers like the real program did on
// the date at its function, or at its answers. TestRealHypervisors in test/e2e checks the
// real ones.
type standIn struct {
	client Client
	// held is what the balloon holds, in MiB.
	held func() int
	// set and ask are what Balloon returns for a guest that is to have so much, and
	// has.
	set, ask func(guest int) (int, error)
}

const standInMemory = 256

func exact(guest int) (int, error) { return guest, nil }

// standIns returns one of each kind.
func standIns(t *testing.T) map[string]standIn {
	t.Helper()
	qemu := &qemuStandIn{}
	ch := &hypervisorAPI{answer: map[string]string{"GET /api/v1/vm.info": chVMInfo}}
	fc := &hypervisorAPI{answer: map[string]string{
		"GET /": firecrackerInstance, "GET /machine-config": firecrackerMachine, "GET /balloon/statistics": firecrackerBalloon,
	}}
	crosvm, crosvmDir := crosvmStandIn(t)
	asked, blind := &lkvm{mem: standInMemory, keeps: 46}, &lkvm{mem: standInMemory}
	counts := func(guest int) (int, error) { return guest - 46, ErrGuestCounts }
	return map[string]standIn{
		"qemu":             {dial(t, qemu.listen(t)), qemu.held, exact, exact},
		"cloud-hypervisor": {open(t, "cloud-hypervisor", serveAPI(t, ch)), ch.held, exact, exact},
		"firecracker":      {open(t, "firecracker", serveAPI(t, fc)), fc.held, exact, exact},
		"crosvm":           {crosvm, func() int { return number(t, crosvmDir, "size") }, exact, exact},
		"kvmtool, whose guest tells": {
			listenFor(t, hypervisor.Control{Memory: standInMemory, GuestTells: true}, asked.serve), asked.held, counts, counts,
		},
		"kvmtool": {
			listenFor(t, hypervisor.Control{Memory: standInMemory}, blind.serve), blind.held,
			func(guest int) (int, error) { return guest, ErrUntold },
			func(int) (int, error) { return 0, ErrUntold },
		},
	}
}

// qemuStandIn accepts sizes like QEMU 7.2.22 and 10.0.13 did on 2026-11-25: one above the
// memory means the memory, without an error. Its guest follows at once.
type qemuStandIn struct {
	mu     sync.Mutex
	actual int64
}

func (q *qemuStandIn) held() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return standInMemory - int(q.actual>>20)
}

func (q *qemuStandIn) listen(t *testing.T) string {
	q.actual = standInMemory << 20
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		say(conn, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}`+"\n")
		for in := json.NewDecoder(conn); ; {
			var request struct {
				Execute   string `json:"execute"`
				Arguments struct {
					Value int64 `json:"value"`
				} `json:"arguments"`
			}
			if in.Decode(&request) != nil {
				return
			}
			say(conn, q.answer(request.Execute, request.Arguments.Value)+"\n")
		}
	}()
	return path
}

func (q *qemuStandIn) answer(command string, value int64) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch command {
	case "query-memory-size-summary":
		return fmt.Sprintf(`{"return": {"base-memory": %d, "plugged-memory": 0}}`, standInMemory<<20)
	case "query-balloon":
		return fmt.Sprintf(`{"return": {"actual": %d}}`, q.actual)
	case "balloon":
		if value <= 0 {
			return `{"error": {"class": "GenericError", "desc": "Parameter 'target' expects a size"}}`
		}
		q.actual = min(value, standInMemory<<20)
	}
	return `{"return": {}}`
}

// crosvmStandIn is a program that answers as crosvm does.
func crosvmStandIn(t *testing.T) (client Client, dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "size"), []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	return crosvmScript(t, dir, crosvmBalloon), dir
}

// crosvmScript is a shell script in place of crosvm.
func crosvmScript(t *testing.T, dir, script string) Client {
	t.Helper()
	program := filepath.Join(dir, "crosvm")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >> asked\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	// As root, programs must run as a given user; here it is root.
	as := &syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
	c, err := OpenAs(t.Context(), hypervisor.Control{Method: "crosvm", Socket: "s", Program: program, Memory: standInMemory}, dir, as)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func number(t *testing.T, dir, file string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestABalloonHoldsWhatItWasToldHoweverOften(t *testing.T) {
	for name, s := range standIns(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sizes := []int{160, 160, 160, 200, 160, 256, 256, 64, 256}
			if _, err := s.set(160); errors.Is(err, ErrGuestCounts) {
				sizes = []int{160, 160, 256} // a guest's own count has to settle
			}
			for i, guest := range sizes {
				got, err := Balloon(within(t, time.Minute), s.client, guest)
				if want, wantErr := s.set(guest); got != want || !errors.Is(err, wantErr) {
					t.Errorf("step %d, set to %d: %d, %v, want %d, %v", i, guest, got, err, want, wantErr)
				}
				testutil.Until(t, "the balloon", func() bool { return s.held() == standInMemory-guest })
				got, err = Balloon(within(t, time.Minute), s.client, 0)
				if want, wantErr := s.ask(guest); got != want || !errors.Is(err, wantErr) {
					t.Errorf("step %d, asked at %d: %d, %v, want %d, %v", i, guest, got, err, want, wantErr)
				}
			}
		})
	}
}

func TestABalloonOutOfBoundsIsRefusedInTheSameWords(t *testing.T) {
	for name, s := range standIns(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Balloon(within(t, time.Minute), s.client, 160); err != nil && !errors.Is(err, ErrUntold) && !errors.Is(err, ErrGuestCounts) {
				t.Fatal(err)
			}
			for guest, want := range map[int]string{
				257:                 "the VM has 256 MiB, so its guest cannot have 257\nhint: use 16 to 256, or raise mem in its spec",
				100000:              "the VM has 256 MiB, so its guest cannot have 100000\nhint: use 16 to 256, or raise mem in its spec",
				9223372036854775807: "the VM has 256 MiB, so its guest cannot have 9223372036854775807\nhint: use 16 to 256, or raise mem in its spec",
				15:                  "no guest runs in 15 MiB\nhint: use 16 to 256 MiB",
				1:                   "no guest runs in 1 MiB\nhint: use 16 to 256 MiB",
				-1:                  "no guest runs in -1 MiB\nhint: use 16 to 256 MiB",
			} {
				if got, err := Balloon(within(t, time.Minute), s.client, guest); err == nil || exit.Text(err) != want || got != 0 {
					t.Errorf("%d: %d, %v, want %s", guest, got, exit.Text(err), want)
				}
			}
			testutil.Until(t, "the balloon", func() bool { return s.held() == standInMemory-160 })
		})
	}
}

func TestAPackageThatDoesNotNameTheMemorySaysWhatToDo(t *testing.T) {
	l := &lkvm{mem: standInMemory, keeps: 46}
	for name, c := range map[string]Client{
		"kvmtool": listenFor(t, hypervisor.Control{}, l.serve),
		"crosvm":  &crosvm{},
	} {
		if _, err := Balloon(within(t, time.Minute), c, 160); err == nil || !strings.Contains(exit.Text(err), "\nhint: build and install it again") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := Balloon(within(t, time.Minute), listenFor(t, hypervisor.Control{}, l.serve), 0); got != 210 || !errors.Is(err, ErrGuestCounts) {
		t.Errorf("the guest may be asked all the same: %d, %v", got, err)
	}
}

// TestMemoryThatIsPluggedInCounts: the balloon can take the memory of virtio-mem in Cloud
// Hypervisor (vmm/src/lib.rs, memory_actual_size), but not in QEMU.
func TestMemoryThatIsPluggedInCounts(t *testing.T) {
	h := &hypervisorAPI{plugged: 128, answer: map[string]string{"GET /api/v1/vm.info": chVMInfo}}
	c := open(t, "cloud-hypervisor", serveAPI(t, h))
	for _, guest := range []int{0, 384, 300, 300, 384} {
		want := guest
		if guest == 0 {
			want = 384
		}
		if got, err := Balloon(within(t, time.Minute), c, guest); got != want || err != nil {
			t.Errorf("set to %d: %d, %v", guest, got, err)
		}
		if h.held() != 384-want {
			t.Errorf("the balloon holds %d MiB, want %d", h.held(), 384-want)
		}
	}
}

// TestABalloonIsFollowedUntilItIsThere: a guest takes its time.
func TestABalloonIsFollowedUntilItIsThere(t *testing.T) {
	sizes := []int{64, 48, 48, 32, 0}
	c := &slow{sizes: sizes}
	if have, err := Balloon(within(t, time.Minute), c, 32); err != nil || have != 32 || len(c.sizes) != 1 {
		t.Errorf("the guest has %d MiB, %v, %d answers before the last, want 32", have, err, len(c.sizes))
	}
}

// slow is a Client whose guest follows step by step.
type slow struct {
	Client
	sizes []int
}

func (s *slow) Memory(context.Context) (int, error) { return 64, nil }

func (s *slow) SetGuestMemory(context.Context, int, int) error { return nil }

func (s *slow) GuestMemory(context.Context) (int, error) {
	now := s.sizes[0]
	if len(s.sizes) > 1 {
		s.sizes = s.sizes[1:]
	}
	return now, nil
}
