package start

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
)

// volumeRaw is the prefix of a mark's name next to an image. With it, an operator
// declares that the image is raw, whatever its guest wrote into it.
const volumeRaw = ".microvm-raw-"

// rawAttribute is the same mark for an image that was created here; xattr(7).
const rawAttribute = "user.microvm.type"

const (
	rawType = "raw"
	vhdType = "vhd"
)

// headerSize is how much of an image is read: more than any signature needs.
const headerSize = 4096

// signatures are at the beginning of images, as QEMU detects them (block/*.c),
// without formats that a guest may rightly have on its disk, such as LUKS.
var signatures = []struct {
	kind   string
	offset int
	magic  string
}{
	{"vhdx", 0, "vhdxfile"},
	{"vmdk", 0, "KDMV"},
	{"vmdk", 0, "COWD"},
	{"vmdk", 0, "# Disk DescriptorFile"},
	{"vdi", 0x40, "\x7f\x10\xda\xbe"},
	{"qed", 0, "QED\x00"},
	{"parallels", 0, "WithoutFreeSpace"},
	{"parallels", 0, "WithouFreSpacExt"},
	{"bochs", 0, "Bochs Virtual HD Image"},
}

// crosvmType returns the type of an image in a format that only crosvm knows
// (disk/src/disk.rs), such as a list of files or a compressed image, or raw.
func crosvmType(r io.ReaderAt) (string, error) {
	header, err := readAt(r, 0, headerSize)
	if err != nil || len(header) < 4 {
		return rawType, err
	}
	// A zstd frame, and a skippable one.
	const zstd, zstdSkip, sparse = 0xfd2fb528, 0x184d2a50, 0xed26ff3a
	switch magic := binary.LittleEndian.Uint32(header); {
	case bytes.HasPrefix(header, []byte("composite_disk\x1d")):
		return "composite", nil
	case magic == sparse:
		return "sparse", nil
	case magic == zstd, magic&^0xf == zstdSkip:
		return "zstd", nil
	}
	return rawType, nil
}

// imageType returns the type that an image of that size seems to have: raw where no
// signature is found.
func imageType(r io.ReaderAt, size int64) (string, error) {
	header, err := readAt(r, 0, headerSize)
	if err != nil {
		return "", err
	}
	if bytes.HasPrefix(header, []byte("QFI\xfb")) && len(header) >= 8 {
		switch version := binary.BigEndian.Uint32(header[4:]); {
		case version == 1:
			return "qcow", nil
		case version > 1:
			return "qcow2", nil
		}
	}
	for _, s := range signatures {
		if len(header) > s.offset && bytes.HasPrefix(header[s.offset:], []byte(s.magic)) {
			return s.kind, nil
		}
	}
	// The footer; a dynamic disk has a copy of it at its beginning.
	if isVHD(header) {
		return vhdType, nil
	}
	footer, err := readAt(r, max(0, size-vhdFooter), vhdFooter)
	if err == nil && isVHD(footer) {
		return vhdType, nil
	}
	return rawType, err
}

func readAt(r io.ReaderAt, offset int64, length int) ([]byte, error) {
	buf := make([]byte, length)
	n, err := r.ReadAt(buf, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	return buf[:n], nil
}

// The size of a VHD's footer and the offset of its checksum, by Microsoft's Virtual
// Hard Disk Image Format Specification.
const (
	vhdFooter   = 512
	vhdChecksum = 64
)

// isVHD reports whether footer is that of a VHD. It verifies the checksum, as any
// data may be at the end of a disk.
func isVHD(footer []byte) bool {
	if len(footer) < vhdFooter || !bytes.HasPrefix(footer, []byte("conectix")) {
		return false
	}
	var sum uint32
	for i, b := range footer[:vhdFooter] {
		if i < vhdChecksum || i >= vhdChecksum+4 {
			sum += uint32(b)
		}
	}
	return ^sum == binary.BigEndian.Uint32(footer[vhdChecksum:])
}

// checkType returns an error if an image seems not to have its declared type. dir is
// the state directory.
func checkType(dir, hyp string, im *image, v hypervisor.Volume) error {
	info, err := im.file.Stat()
	if err != nil {
		return fmt.Errorf("stat the image: %w", err)
	}
	declared := v.ImageType
	if declared == "" {
		declared = rawType
	}
	kind, err := imageType(im.file, info.Size())
	if err == nil && kind == rawType && hyp == "crosvm" {
		kind, err = crosvmType(im.file)
	}
	if err != nil || kind == declared {
		return err
	}
	if declared != rawType {
		return exit.WithHint(exit.Configf("%s is a %s image, and imageType is %s", im.path, kind, declared),
			"set imageType to %s, or convert the image: qemu-img convert -O %s %s NEW", kind, qemuName(declared), im.path)
	}
	if v.Probed {
		// The guest of a raw disk could make the host open a file named in the header.
		return exit.WithHint(exit.WithHint(
			exit.Configf("%s is a %s image, and imageType is raw: %s would detect the type from data which the guest can write", im.path, kind, hyp),
			"%s", convert(hyp, kind, im.path)),
			"if it is a raw disk, clear its beginning: dd if=/dev/zero of=%s bs=512 count=1 conv=notrunc", im.path)
	}
	mark := beside(im.path, volumeRaw)
	if info.Mode()&os.ModeDevice != 0 {
		mark = filepath.Join(dir, volumeRaw+filepath.Base(im.path))
	}
	if markedRaw(im.file, mark) {
		return nil
	}
	if abs, err := filepath.Abs(mark); err == nil {
		mark = abs
	}
	return exit.WithHint(exit.WithHint(exit.Configf("%s is a %s image, and imageType is raw", im.path, kind), "%s", convert(hyp, kind, im.path)),
		"if it is a raw disk whose guest wrote that header, mark it as raw: touch %s", mark)
}

// markedRaw reports whether this program or an operator has marked the image as raw,
// by the attribute or by the file mark.
func markedRaw(f *os.File, mark string) bool {
	buf := make([]byte, len(rawType)+1)
	n, err := unix.Fgetxattr(int(f.Fd()), rawAttribute, buf)
	if err == nil && string(buf[:n]) == rawType {
		return true
	}
	_, err = os.Lstat(mark)
	return err == nil
}

// markRaw marks an image that was created here. Not every file system has attributes.
func markRaw(f *os.File) { _ = unix.Fsetxattr(int(f.Fd()), rawAttribute, []byte(rawType), 0) }

// convert returns the hint for an image of that type, which hyp may support.
func convert(hyp, kind, path string) string {
	table, err := hypervisor.Table()
	if err == nil && slices.Contains(table[hyp].ImageTypes, kind) {
		return fmt.Sprintf("set imageType to %s and autoCreate to false", kind)
	}
	return fmt.Sprintf("convert it: qemu-img convert -O raw %s NEW", path)
}

// qemuName returns QEMU's name of an image type.
func qemuName(kind string) string {
	if kind == vhdType {
		return "vpc"
	}
	return kind
}
