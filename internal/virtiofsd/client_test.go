package virtiofsd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// client stands where the hypervisor and the guest's kernel stand: it speaks
// vhost-user to virtiofsd, docs/interop/vhost-user.rst of QEMU, and FUSE over
// one virtqueue, virtio 1.2, 5.11. So what a guest may do to the host is tested
// against the real daemon without a guest.
type client struct {
	conn       int
	mem        []byte
	memFD      int
	kick, call int
	avail      uint16
	unique     uint64
	// uid is the guest's user who asks.
	uid uint32
}

// Requests of vhost-user.
const (
	vuGetFeatures         = 1
	vuSetFeatures         = 2
	vuSetOwner            = 3
	vuSetMemTable         = 5
	vuSetVringNum         = 8
	vuSetVringAddr        = 9
	vuSetVringBase        = 10
	vuSetVringKick        = 12
	vuSetVringCall        = 13
	vuSetProtocolFeatures = 16
	vuSetVringEnable      = 18

	featureVersion1 = 1 << 32
	featureProtocol = 1 << 30
)

// Layout of the shared memory, and where it appears to the daemon.
const (
	memSize   = 0x40000
	userBase  = 0x10000000
	queueSize = 16
	requests  = 1 // the queue after that for high priority
	descAt    = 0x0
	availAt   = 0x1000
	usedAt    = 0x2000
	requestAt = 0x10000
	replyAt   = 0x20000
	replySize = 0x1000
	waitReply = 5 * time.Second
)

// Operations of FUSE, linux/fuse.h.
const (
	fuseLookup   = 1
	fuseSetattr  = 4
	fuseSymlink  = 6
	fuseMknod    = 8
	fuseMkdir    = 9
	fuseWrite    = 16
	fuseSetxattr = 21
	fuseInit     = 26
	fuseCreate   = 35
	rootNode     = 1
)

// dial connects to the socket and mounts the share.
func dial(t *testing.T, socket string) *client {
	t.Helper()
	c, err := connect(socket)
	if err != nil {
		t.Fatalf("connect to %s: %v", socket, err)
	}
	t.Cleanup(c.close)
	if err := c.setup(); err != nil {
		t.Fatalf("set up the device: %v", err)
	}
	// FUSE_DONT_MASK, FUSE_POSIX_ACL, FUSE_SUBMOUNTS and FUSE_SETXATTR_EXT:
	// what Linux offers.
	const flags = 1<<6 | 1<<20 | 1<<27 | 1<<29
	init := le(uint32(7), uint32(31), uint32(0), uint32(flags))
	if _, errno, err := c.do(fuseInit, 0, init); err != nil || errno != 0 {
		t.Fatalf("mount the share: %v, %v", errno, err)
	}
	return c
}

func connect(socket string) (*client, error) {
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket))
	return &client{conn: conn}, unix.Connect(conn, &unix.SockaddrUnix{Name: name})
}

func (c *client) close() {
	for _, fd := range []int{c.conn, c.memFD, c.kick, c.call} {
		_ = unix.Close(fd)
	}
	c.conn, c.memFD, c.kick, c.call = -1, -1, -1, -1
}

func le(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// send sends one vhost-user message.
func (c *client) send(request uint32, payload []byte, fds ...int) error {
	msg := append(le(request, uint32(1), uint32(len(payload))), payload...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(c.conn, msg, rights, nil, 0)
}

// setup negotiates and starts the two queues.
func (c *client) setup() error {
	var err error
	if c.memFD, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC); err != nil {
		return err
	}
	if err := unix.Ftruncate(c.memFD, memSize); err != nil {
		return err
	}
	if c.mem, err = unix.Mmap(c.memFD, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	if c.kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	if c.call, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return c.send(vuSetOwner, nil) },
		c.getFeatures,
		func() error { return c.send(vuSetProtocolFeatures, le(uint64(0))) },
		func() error { return c.send(vuSetFeatures, le(uint64(featureVersion1|featureProtocol))) },
		func() error {
			return c.send(vuSetMemTable, le(uint32(1), uint32(0), uint64(0), uint64(memSize), uint64(userBase), uint64(0)), c.memFD)
		},
		func() error { return c.startQueue(requests) },
		// Its answer says that the queue is on: a kick before that is lost.
		c.getFeatures,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) getFeatures() error {
	if err := c.send(vuGetFeatures, nil); err != nil {
		return err
	}
	if err := waitFor(c.conn); err != nil {
		return err
	}
	_, err := unix.Read(c.conn, make([]byte, 20))
	return err
}

func (c *client) startQueue(n uint32) error {
	addr := le(n, uint32(0), uint64(userBase+descAt), uint64(userBase+usedAt), uint64(userBase+availAt), uint64(0))
	for _, step := range []func() error{
		func() error { return c.send(vuSetVringNum, le(n, uint32(queueSize))) },
		func() error { return c.send(vuSetVringAddr, addr) },
		func() error { return c.send(vuSetVringBase, le(n, uint32(0))) },
		func() error { return c.send(vuSetVringCall, le(uint64(n)), c.call) },
		func() error { return c.send(vuSetVringKick, le(uint64(n)), c.kick) },
		func() error { return c.send(vuSetVringEnable, le(n, uint32(1))) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// waitFor waits until fd is readable.
func waitFor(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(waitReply.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return os.ErrDeadlineExceeded
		}
		return nil
	}
}

// do sends one FUSE request and returns the reply's body.
func (c *client) do(op uint32, node uint64, body []byte) ([]byte, unix.Errno, error) {
	c.unique++
	req := append(le(uint32(40+len(body)), op, c.unique, node, c.uid, uint32(0), uint32(1), uint32(0)), body...)
	copy(c.mem[requestAt:], req)
	const next, write = 1, 2
	copy(c.mem[descAt:], le(
		uint64(requestAt), uint32(len(req)), uint16(next), uint16(1),
		uint64(replyAt), uint32(replySize), uint16(write), uint16(0)))
	binary.LittleEndian.PutUint16(c.mem[availAt+4+2*(c.avail%queueSize):], 0)
	c.avail++
	binary.LittleEndian.PutUint16(c.mem[availAt+2:], c.avail)
	if _, err := unix.Write(c.kick, le(uint64(1))); err != nil {
		return nil, 0, err
	}
	for binary.LittleEndian.Uint16(c.mem[usedAt+2:]) != c.avail {
		if err := waitFor(c.call); err != nil {
			return nil, 0, fmt.Errorf("FUSE operation %d: %w", op, err)
		}
		if _, err := unix.Read(c.call, make([]byte, 8)); err != nil {
			return nil, 0, err
		}
	}
	reply := c.mem[replyAt:]
	size := binary.LittleEndian.Uint32(reply)
	errno := int32(binary.LittleEndian.Uint32(reply[4:]))
	return bytes.Clone(reply[16:size]), unix.Errno(-errno), nil
}

// must does a request and returns its body and errno.
func (c *client) must(t *testing.T, op uint32, node uint64, body []byte) ([]byte, unix.Errno) {
	t.Helper()
	reply, errno, err := c.do(op, node, body)
	if err != nil {
		t.Fatal(err)
	}
	return reply, errno
}

func name(s string) []byte { return append([]byte(s), 0) }

// create makes a file and returns its node and handle.
func (c *client) create(t *testing.T, file string, mode uint32) (node, handle uint64, errno unix.Errno) {
	t.Helper()
	body := append(le(uint32(unix.O_RDWR), mode|unix.S_IFREG, uint32(0), uint32(0)), name(file)...)
	reply, errno := c.must(t, fuseCreate, rootNode, body)
	if errno != 0 {
		return 0, 0, errno
	}
	return binary.LittleEndian.Uint64(reply), binary.LittleEndian.Uint64(reply[128:]), 0
}

func (c *client) write(t *testing.T, node, handle uint64, data string) unix.Errno {
	t.Helper()
	head := le(handle, uint64(0), uint32(len(data)), uint32(0), uint64(0), uint32(0), uint32(0))
	_, errno := c.must(t, fuseWrite, node, append(head, data...))
	return errno
}

func (c *client) mkdir(t *testing.T, dir string) (node uint64, errno unix.Errno) {
	t.Helper()
	reply, errno := c.must(t, fuseMkdir, rootNode, append(le(uint32(0o755), uint32(0)), name(dir)...))
	if errno != 0 {
		return 0, errno
	}
	return binary.LittleEndian.Uint64(reply), 0
}

func (c *client) mknod(t *testing.T, file string, mode, rdev uint32) unix.Errno {
	t.Helper()
	_, errno := c.must(t, fuseMknod, rootNode, append(le(mode, rdev, uint32(0), uint32(0)), name(file)...))
	return errno
}

// chmod changes the mode of a node, through an open handle where there is one.
func (c *client) chmod(t *testing.T, node, handle uint64, mode uint32) unix.Errno {
	t.Helper()
	const setMode, setHandle = 1 << 0, 1 << 6
	valid := uint32(setMode)
	if handle != 0 {
		valid |= setHandle
	}
	_, errno := c.must(t, fuseSetattr, node, le(valid, uint32(0), handle, [5]uint64{}, [3]uint32{}, mode, [4]uint32{}))
	return errno
}

func (c *client) chown(t *testing.T, node uint64, uid, gid uint32) unix.Errno {
	t.Helper()
	const setUID, setGID = 1 << 1, 1 << 2
	_, errno := c.must(t, fuseSetattr, node, le(uint32(setUID|setGID), uint32(0), uint64(0), [5]uint64{}, [3]uint32{}, uint32(0), uint32(0), uid, gid, uint32(0)))
	return errno
}

// setxattr is for a share with ACLs: its request has the extended form.
func (c *client) setxattr(t *testing.T, node uint64, key string, value []byte) unix.Errno {
	t.Helper()
	_, errno := c.must(t, fuseSetxattr, node, append(append(le(uint32(len(value)), uint32(0), uint32(0), uint32(0)), name(key)...), value...))
	return errno
}

func (c *client) symlink(t *testing.T, link, target string) unix.Errno {
	t.Helper()
	_, errno := c.must(t, fuseSymlink, rootNode, append(name(link), name(target)...))
	return errno
}

func (c *client) lookup(t *testing.T, file string) unix.Errno {
	t.Helper()
	_, errno := c.must(t, fuseLookup, rootNode, name(file))
	return errno
}
