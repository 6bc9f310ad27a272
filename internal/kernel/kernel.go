// Package kernel takes the ELF image out of a compressed x86 Linux kernel, for
// hypervisors that do not start the compressed one. The format is the boot
// protocol's: Documentation/arch/x86/boot.rst of the kernel.
package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"microvm/internal/foreign"
)

// Fields of the setup header, by their offset in the file.
const (
	setupSectors  = 0x1f1
	headerMagic   = 0x202 // "HdrS"
	protocol      = 0x206
	versionText   = 0x20e // its place, less one sector
	payloadOffset = 0x248 // from the end of the setup code, since protocol 2.08
	payloadLength = 0x24c
	headerEnd     = 0x250
	sector        = 512
	// trailer is the size of the uncompressed kernel, which the build puts behind
	// the payload where the format has no such field: all but gzip.
	trailer = 4
)

var errNotCompressed = errors.New("is no compressed x86 kernel")

// maxImage bounds what is decompressed; distributions' kernels have 30 to 80 MB.
const maxImage = 1 << 30

// decompression is how long it may take, on a slow machine that is busy.
const decompression = 2 * time.Minute

// format is one that kernels are compressed with.
type format struct {
	name, magic string
	// program decompresses standard input; pkg is Debian's that has it.
	program, pkg string
	trailer      int
}

var formats = []format{
	{"gzip", "\x1f\x8b", "gzip", "gzip", 0},
	{"zstd", "\x28\xb5\x2f\xfd", "zstd", "zstd", trailer},
	{"xz", "\xfd7zXZ\x00", "xz", "xz-utils", trailer},
	{"lz4", "\x02\x21\x4c\x18", "lz4", "lz4", trailer},
	{"lzma", "\x5d\x00\x00", "lzma", "xz-utils", trailer},
	{"bzip2", "BZh", "bzip2", "bzip2", trailer},
}

// Version returns the version that a compressed x86 kernel says of itself, as
// MAJOR, MINOR. It returns an error for what is none, and for one without.
func Version(path string) (major, minor int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, fmt.Errorf("open kernel: %w", err)
	}
	defer func() { _ = f.Close() }()
	setup := make([]byte, 64<<10) // the text lies within the setup code
	n, err := io.ReadFull(f, setup)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, 0, fmt.Errorf("read kernel %s: %w", path, err)
	}
	setup = setup[:n]
	if n < headerEnd || string(setup[headerMagic:headerMagic+4]) != "HdrS" {
		return 0, 0, fmt.Errorf("kernel %s: %w", path, errNotCompressed)
	}
	at := int(binary.LittleEndian.Uint16(setup[versionText:])) + sector
	if at == sector || at >= n {
		return 0, 0, fmt.Errorf("kernel %s names no version", path)
	}
	if _, err := fmt.Sscanf(string(setup[at:min(n, at+32)]), "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("kernel %s names no version: %w", path, err)
	}
	return major, minor, nil
}

// IsCompressed says whether path is a compressed x86 kernel. A file that cannot
// be read is none: what needs it says so.
func IsCompressed(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	header := make([]byte, headerEnd)
	if _, err := io.ReadFull(f, header); err != nil {
		return false
	}
	return string(header[headerMagic:headerMagic+4]) == "HdrS"
}

// ELF returns the ELF image in the compressed kernel at path. It needs the
// program that decompresses the kernel's format.
func ELF(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	payload, err := payload(data)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", path, err)
	}
	for _, f := range formats {
		if bytes.HasPrefix(payload, []byte(f.magic)) {
			image, err := f.decompress(payload)
			if err != nil {
				return nil, fmt.Errorf("kernel %s: %w", path, err)
			}
			return image, nil
		}
	}
	return nil, fmt.Errorf("kernel %s is compressed in a way that is not known; give the file vmlinux of its build", path)
}

// payload is the compressed part of a kernel.
func payload(data []byte) ([]byte, error) {
	if len(data) < headerEnd || string(data[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, errNotCompressed
	}
	if binary.LittleEndian.Uint16(data[protocol:]) < 0x208 {
		return nil, errors.New("is older than Linux 2.6.26, and does not say where its image is; give the file vmlinux of its build")
	}
	sectors := uint64(data[setupSectors])
	if sectors == 0 {
		sectors = 4 // the value of kernels that have none
	}
	from := (sectors+1)*sector + uint64(binary.LittleEndian.Uint32(data[payloadOffset:]))
	to := from + uint64(binary.LittleEndian.Uint32(data[payloadLength:]))
	if to > uint64(len(data)) || to-from < 16 {
		return nil, errors.New("is cut short; copy it again")
	}
	return data[from:to], nil
}

func (f format) decompress(payload []byte) ([]byte, error) {
	path, err := exec.LookPath(f.program)
	if err != nil {
		return nil, fmt.Errorf("is compressed by %s, which cannot be started (%w); install it: apt-get install %s", f.name, err, f.pkg)
	}
	// What a spec names is no input for a program that root runs as root.
	cmd := foreign.Command{
		Path: path, Args: []string{"-dc"}, Stdin: bytes.NewReader(payload[:len(payload)-f.trailer]),
		As: foreign.As(path, nil), Apart: true, Limit: decompression, MaxOutput: maxImage + 1,
	}
	image, log, err := cmd.Run(context.Background())
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", f.program, err, bytes.TrimSpace(log))
	case len(image) > maxImage:
		return nil, fmt.Errorf("has more than %d bytes when decompressed", maxImage)
	case !bytes.HasPrefix(image, []byte("\x7fELF")):
		return nil, errors.New("holds no ELF image; give the file vmlinux of its build")
	}
	return image, nil
}
