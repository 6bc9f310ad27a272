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

// volumeRaw is what begins the name of a mark beside an image: an operator says
// by it that the image is raw, whatever its guest wrote into it.
const volumeRaw = ".microvm-raw-"

// rawAttribute says the same of an image that was made here; xattr(7).
const rawAttribute = "user.microvm.type"

const (
	rawType = "raw"
	vhdType = "vhd"
)

// headerSize is what is read of an image, more than any signature needs.
const headerSize = 4096

// signatures at the beginning of images, as QEMU looks for them (block/*.c), but
// for what guests legitimately have on a disk, as LUKS.
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

// crosvmType is what crosvm opens a disk as that nobody else knows, in
// disk/src/disk.rs: lists of files, and compressed images.
func crosvmType(r io.ReaderAt) (string, error) {
	header, err := readAt(r, 0, headerSize)
	if err != nil || len(header) < 4 {
		return rawType, err
	}
	// Frames of zstd, and those that it passes over.
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

// imageType is what an image of that size looks like; raw where it is nothing
// that is known.
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
	// The footer, of which a dynamic disk has a copy in front.
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
		return nil, fmt.Errorf("look at the image: %w", err)
	}
	return buf[:n], nil
}

// The footer of a VHD: its size, and where its checksum is. See Microsoft's
// Virtual Hard Disk Image Format Specification.
const (
	vhdFooter   = 512
	vhdChecksum = 64
)

// isVHD checks the checksum as well: the end of a disk is anybody's.
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

// checkType compares what an image is with what it is declared to be. dir is the
// state directory.
func checkType(dir, hyp string, im *image, v hypervisor.Volume) error {
	info, err := im.file.Stat()
	if err != nil {
		return fmt.Errorf("look at the image: %w", err)
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
		// The guest of a raw disk would have its host open what it names in it.
		return exit.WithHint(
			exit.WithHint(exit.Configf("%s is a %s image, and imageType is raw; %s goes by what is in the image, which the guest can write", im.path, kind, hyp),
				"%s", convert(hyp, kind, im.path)),
			"if it is a raw disk, clear its beginning: dd if=/dev/zero of=%s bs=512 count=1 conv=notrunc", im.path)
	}
	mark := beside(im.path, volumeRaw)
	if info.Mode()&os.ModeDevice != 0 {
		mark = filepath.Join(dir, volumeRaw+filepath.Base(im.path))
	}
	if saidRaw(im.file, mark) {
		return nil
	}
	if abs, err := filepath.Abs(mark); err == nil {
		mark = abs
	}
	return exit.WithHint(
		exit.WithHint(exit.Configf("%s is a %s image, and imageType is raw; it was left as it is", im.path, kind), "%s", convert(hyp, kind, im.path)),
		"if it is a raw disk, and its guest wrote that there, say so: touch %s", mark)
}

// saidRaw says whether somebody other than the guest says that the image is raw.
func saidRaw(f *os.File, mark string) bool {
	buf := make([]byte, len(rawType)+1)
	n, err := unix.Fgetxattr(int(f.Fd()), rawAttribute, buf)
	if err == nil && string(buf[:n]) == rawType {
		return true
	}
	_, err = os.Lstat(mark)
	return err == nil
}

// sayRaw marks an image that was made here. Not every file system can.
func sayRaw(f *os.File) { _ = unix.Fsetxattr(int(f.Fd()), rawAttribute, []byte(rawType), 0) }

// convert says what to do about an image of that kind.
func convert(hyp, kind, path string) string {
	table, err := hypervisor.Table()
	if err == nil && slices.Contains(table[hyp].ImageTypes, kind) {
		return fmt.Sprintf("set imageType to %s and autoCreate to false", kind)
	}
	return fmt.Sprintf("convert it: qemu-img convert -O raw %s NEW", path)
}

// qemuName is what QEMU calls an image type.
func qemuName(kind string) string {
	if kind == vhdType {
		return "vpc"
	}
	return kind
}
