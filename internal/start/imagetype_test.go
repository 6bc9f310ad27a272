package start

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/test/need"
)

// footer returns the footer of a VHD.
func footer() []byte {
	out := make([]byte, 512)
	copy(out, "conectix\x00\x00\x00\x02\x00\x01\x00\x00")
	var sum uint32
	for _, b := range out {
		sum += uint32(b)
	}
	binary.BigEndian.PutUint32(out[64:], ^sum)
	return out
}

// images begin like those of qemu-img 7.2.
var imageHeads = map[string][]byte{
	"qcow":      []byte("QFI\xfb\x00\x00\x00\x01"),
	"qcow2":     []byte("QFI\xfb\x00\x00\x00\x03"),
	"vhdx":      []byte("vhdxfileQ\x00E\x00M\x00U\x00"),
	"vhd":       footer(),
	"vmdk":      []byte("KDMV\x01\x00\x00\x00"),
	"qed":       []byte("QED\x00\x00\x00\x01\x00"),
	"vdi":       append(append([]byte("<<< QEMU VM Virtual Disk Image >>>\n"), make([]byte, 0x40-35)...), 0x7f, 0x10, 0xda, 0xbe),
	"parallels": []byte("WithouFreSpacExt"),
}

func TestImagesOfAnotherTypeAreRefused(t *testing.T) {
	for kind, head := range imageHeads {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "data.img")
			data := append(bytes.Clone(head), make([]byte, 8192)...)
			must(t, os.WriteFile(path, data, 0o600))
			err := volumes(dir, ext4(16))
			if err == nil || !strings.Contains(exit.Text(err), "is a "+kind+" image, and imageType is raw") || !strings.Contains(exit.Text(err), "\nhint: ") {
				t.Fatalf("%v", err)
			}
			if exit.Code(err) != exit.CodeConfig {
				t.Errorf("exit code %d", exit.Code(err))
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
				t.Error("the image was changed")
			}
			// For a raw disk whose guest wrote that header, the command in the hint helps.
			_, command, _ := strings.Cut(exit.Text(err), "mark it as raw: ")
			output(t, "/bin/sh", "-c", command)
			must(t, volumes(dir, ext4(16)))
		})
	}
}

func TestAFixedVHDIsKnownByItsEnd(t *testing.T) {
	data := append(make([]byte, 65536), footer()...)
	if kind, err := imageType(bytes.NewReader(data), int64(len(data))); err != nil || kind != "vhd" {
		t.Errorf("%s, %v", kind, err)
	}
	data[len(data)-1] = 1 // the checksum is wrong: anybody's bytes
	if kind, err := imageType(bytes.NewReader(data), int64(len(data))); err != nil || kind != rawType {
		t.Errorf("%s, %v", kind, err)
	}
}

func TestARawFileIsNoQcow2(t *testing.T) {
	dir := t.TempDir()
	blank(t, filepath.Join(dir, "data.img"), 1)
	for _, kind := range []string{"qcow2", "vhd", "vhdx"} {
		err := volumes(dir, hypervisor.Volume{Image: "data.img", ImageType: kind})
		if err == nil || !strings.Contains(err.Error(), "is a raw image, and imageType is "+kind) {
			t.Errorf("%v", err)
		}
		must(t, os.WriteFile(filepath.Join(dir, "x.img"), append(bytes.Clone(imageHeads[kind]), make([]byte, 1024)...), 0o600))
		if err := volumes(dir, hypervisor.Volume{Image: "x.img", ImageType: kind}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestWhatAGuestWritesToItsRawDiskDoesNotLockItOut: an image that was created here is
// raw, whatever its content.
func TestWhatAGuestWritesToItsRawDiskDoesNotLockItOut(t *testing.T) {
	dir := t.TempDir()
	must(t, volumes(dir, ext4(16)))
	path := filepath.Join(dir, "data.img")
	f := openImage(t, path)
	if !markedRaw(f, "") {
		t.Skip("the file system of the temporary directory has no attributes of users, xattr(7)")
	}
	if _, err := f.WriteAt(imageHeads["qcow2"], 0); err != nil {
		t.Fatal(err)
	}
	must(t, volumes(dir, ext4(16)))
}

// TestAHypervisorThatLooksIsNotTrustedWithARawDisk: the guest could choose which files
// of the host are opened.
func TestAHypervisorThatLooksIsNotTrustedWithARawDisk(t *testing.T) {
	for hyp, heads := range map[string][]string{
		"crosvm":           {"QFI\xfb\x00\x00\x00\x03", "composite_disk\x1d", "\x3a\xff\x26\xed", "\x28\xb5\x2f\xfd", "\x50\x2a\x4d\x18"},
		"kvmtool":          {"QFI\xfb\x00\x00\x00\x01"},
		"cloud-hypervisor": {"vhdxfile"},
	} {
		for _, head := range heads {
			dir := t.TempDir()
			path := filepath.Join(dir, "data.img")
			must(t, os.WriteFile(path, append([]byte(head), make([]byte, 8192)...), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, volumeRaw+"data.img"), nil, 0o600))
			held, err := quiet(&hypervisor.Plan{Hypervisor: hyp, Volumes: []hypervisor.Volume{{Image: "data.img", Probed: true}}}).volumes(dir)
			held.Close()
			if err == nil || !strings.Contains(exit.Text(err), "which the guest can write\nhint: ") {
				t.Fatalf("%s with %q: %v", hyp, head, err)
			}
			_, command, _ := strings.Cut(exit.Text(err), "clear its beginning: ")
			output(t, "/bin/sh", "-c", command)
			must(t, volumes(dir, hypervisor.Volume{Image: "data.img", Probed: true}))
		}
	}
}

// TestImagesOfQemuImg checks the signatures with real images.
func TestImagesOfQemuImg(t *testing.T) {
	qemuImg := need.Program(t, "qemu-img")
	for kind, args := range map[string][]string{
		"qcow": {"qcow"}, "qcow2": {"qcow2"}, "vhdx": {"vhdx"}, "vmdk": {"vmdk"}, "vdi": {"vdi"}, "qed": {"qed"}, "parallels": {"parallels"},
		"vhd": {"vpc"}, "vhd, fixed": {"vpc", "-o", "subformat=fixed"}, "vmdk, by parts": {"vmdk", "-o", "subformat=monolithicFlat"}, "raw": {"raw"},
	} {
		path := filepath.Join(t.TempDir(), "x.img")
		output(t, qemuImg, append(append([]string{"create", "-q", "-f"}, args...), path, "16M")...)
		f := openImage(t, path)
		info, err := f.Stat()
		must(t, err)
		want, _, _ := strings.Cut(kind, ",")
		if got, err := imageType(f, info.Size()); err != nil || got != want {
			t.Errorf("%s: %s, %v", kind, got, err)
		}
	}
}

func FuzzImageType(f *testing.F) {
	for _, head := range imageHeads {
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, err := imageType(bytes.NewReader(data), int64(len(data)))
		if err != nil || kind == "" {
			t.Errorf("%q, %v", kind, err)
		}
		if _, err := crosvmType(bytes.NewReader(data)); err != nil {
			t.Error(err)
		}
	})
}
