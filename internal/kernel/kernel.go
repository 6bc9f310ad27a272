// Package kernel extracts the ELF image from a compressed x86 Linux kernel, for hypervisors
// that do not boot the compressed one. The format is that of the boot protocol,
// Documentation/arch/x86/boot.rst of the kernel.
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
	versionText   = 0x20e // offset of the version string, minus one sector
	payloadOffset = 0x248 // from the end of the setup code, since protocol 2.08
	payloadLength = 0x24c
	headerEnd     = 0x250
	sector        = 512
	// trailer is the length of the field with the uncompressed size, which the kernel's
	// build appends to the payload for all formats but gzip.
	trailer = 4
)

var errNotCompressed = errors.New("not a compressed x86 kernel")

// maxImage bounds the decompressed image; distributions' kernels have 30 to 80 MB.
const maxImage = 1 << 30

// decompression is the time limit, generous enough for a slow and busy machine.
const decompression = 2 * time.Minute

// format is a compression format of kernels.
type format struct {
	name, magic string
	// program decompresses standard input; pkg is the Debian package with it.
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

// Version returns the version that the header of a compressed x86 kernel contains, as
// MAJOR, MINOR. It returns an error for any other file, and for a kernel without a version.
func Version(path string) (major, minor int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, fmt.Errorf("open kernel: %w", err)
	}
	defer func() { _ = f.Close() }()
	setup := make([]byte, 64<<10) // the version string is within the setup code
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
		return 0, 0, fmt.Errorf("kernel %s: no version in its header", path)
	}
	if _, err := fmt.Sscanf(string(setup[at:min(n, at+32)]), "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("kernel %s: no version in its header: %w", path, err)
	}
	return major, minor, nil
}

// IsCompressed reports whether path is a compressed x86 kernel. It returns false for a file
// that cannot be read, which is reported when the file is used.
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

// ELF returns the ELF image in the compressed kernel at path. It runs the program that
// decompresses the kernel's format.
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
	return nil, fmt.Errorf("kernel %s: %w", path, &failure{errors.New("unknown compression format"), useVmlinux})
}

// useVmlinux is the remedy for a kernel whose image cannot be extracted.
const useVmlinux = "use the file vmlinux of the kernel's build"

// failure is an error with a remedy, for package exit, which this package is too low to
// import.
type failure struct {
	error
	hint string
}

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.error }

// Hint returns the remedy.
func (f *failure) Hint() string { return f.hint }

// payload returns the compressed part of a kernel.
func payload(data []byte) ([]byte, error) {
	if len(data) < headerEnd || string(data[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, errNotCompressed
	}
	if binary.LittleEndian.Uint16(data[protocol:]) < 0x208 {
		return nil, &failure{errors.New("older than Linux 2.6.26, without the offset of its image"), useVmlinux}
	}
	sectors := uint64(data[setupSectors])
	if sectors == 0 {
		sectors = 4 // 0 means 4, by the boot protocol
	}
	from := (sectors+1)*sector + uint64(binary.LittleEndian.Uint32(data[payloadOffset:]))
	to := from + uint64(binary.LittleEndian.Uint32(data[payloadLength:]))
	if to > uint64(len(data)) || to-from < 16 {
		return nil, &failure{errors.New("truncated"), "copy it again"}
	}
	return data[from:to], nil
}

func (f format) decompress(payload []byte) ([]byte, error) {
	path, err := exec.LookPath(f.program)
	if err != nil {
		return nil, &failure{fmt.Errorf("decompress with %s: %w", f.name, err), "install it with: apt-get install " + f.pkg}
	}
	// Any user may have made the file, so root does not run the program as root.
	cmd := foreign.Command{
		Path: path, Args: []string{"-dc"}, Stdin: bytes.NewReader(payload[:len(payload)-f.trailer]),
		As: foreign.As(path, nil), Apart: true, Limit: decompression, MaxOutput: maxImage + 1,
	}
	image, log, err := cmd.Run(context.Background())
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", f.program, err, bytes.TrimSpace(log))
	case len(image) > maxImage:
		return nil, fmt.Errorf("larger than %d bytes when decompressed", maxImage)
	case !bytes.HasPrefix(image, []byte("\x7fELF")):
		return nil, &failure{errors.New("contains no ELF image"), useVmlinux}
	}
	return image, nil
}
