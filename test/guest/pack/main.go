// Command pack makes the test guest's initramfs: our init and the kernel
// modules that it loads, in the order of their dependencies. The same input
// gives the same bytes.
//
//	pack -root ROOT -init INIT [-sshd SSHD] -o INITRD
//
// ROOT is a Debian root with a kernel in it. With SSHD, an SSH server, it writes
// INITRD-ssh as well, which has that too: most guests boot faster without.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// modules that the guest may need; what they depend on comes first.
var modules = []string{
	"virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console", "virtio_balloon", "virtio_mem",
	"crc32c_generic", "ext4", "9pnet_virtio", "9p", "virtiofs", "vmw_vsock_virtio_transport", "qemu_fw_cfg", "dmi-sysfs",
	"evdev", "button", "i8042", "atkbd", "e1000e",
}

func main() {
	root := flag.String("root", "", "Debian root with a kernel")
	initProgram := flag.String("init", "", "the init program")
	sshd := flag.String("sshd", "", "the SSH server, for INITRD-ssh")
	out := flag.String("o", "", "initramfs to write")
	flag.Parse()
	log.SetFlags(0)
	if err := pack(*root, *initProgram, *sshd, *out); err != nil {
		log.Fatalf("pack: %v", err)
	}
}

func pack(root, initProgram, sshd, out string) error {
	kernels, err := filepath.Glob(filepath.Join(root, "usr/lib/modules/*"))
	if err != nil || len(kernels) == 0 {
		return fmt.Errorf("no kernel modules below %s (%v)", root, err)
	}
	dir := kernels[len(kernels)-1]
	order, err := resolve(dir)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := &cpio{w: &archive}
	program, err := os.ReadFile(initProgram)
	if err != nil {
		return err
	}
	for _, d := range []string{"dev", "proc", "sys", "run", "modules"} {
		w.add(d, 0o040755, nil)
	}
	w.add("init", 0o100755, program)
	for i, m := range order {
		data, err := decompress(filepath.Join(dir, m))
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(filepath.Base(m), ".ko")
		w.add(fmt.Sprintf("modules/%03d-%s.ko", i, name), 0o100644, data)
	}
	w.add("TRAILER!!!", 0, nil)
	if err := os.WriteFile(out, archive.Bytes(), 0o644); err != nil || sshd == "" {
		return err
	}
	return appendProgram(out+"-ssh", archive.Bytes(), "sshd", sshd)
}

// appendProgram writes an initramfs with one more program: the kernel unpacks
// one archive after the other.
func appendProgram(out string, initramfs []byte, name, path string) error {
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	more := bytes.NewBuffer(bytes.Clone(initramfs))
	w := &cpio{w: more}
	w.add(name, 0o100755, program)
	w.add("TRAILER!!!", 0, nil)
	return os.WriteFile(out, more.Bytes(), 0o644)
}

// resolve reads modules.dep and puts each module behind those it needs.
// Modules that the kernel has built in, or lacks, are left out.
func resolve(dir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	path, needs := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(string(data)) {
		file, deps, _ := strings.Cut(line, ":")
		name, _, _ := strings.Cut(filepath.Base(file), ".ko")
		path[strings.ReplaceAll(name, "-", "_")] = file
		needs[file] = strings.Fields(deps)
	}
	var order []string
	done := map[string]bool{}
	add := func(file string) {
		if file != "" && !done[file] {
			done[file] = true
			order = append(order, file)
		}
	}
	for _, m := range modules {
		file := path[strings.ReplaceAll(m, "-", "_")]
		// modules.dep names the nearest first and what that needs after it.
		deps := needs[file]
		for i := len(deps) - 1; i >= 0; i-- {
			add(deps[i])
		}
		add(file)
	}
	return order, nil
}

func decompress(path string) ([]byte, error) {
	tool := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(path)]
	if tool == "" {
		return os.ReadFile(path)
	}
	data, err := exec.Command(tool, "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", tool, path, err)
	}
	return data, nil
}

// cpio writes the format "newc", the kernel's document
// driver-api/early-userspace/buffer-format.
type cpio struct {
	w     io.Writer
	inode int
	size  int
}

func (c *cpio) add(name string, mode int, data []byte) {
	c.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.write([]byte(header + name + "\x00"))
	c.write(data)
}

func (c *cpio) write(data []byte) {
	padded := append(data[:len(data):len(data)], make([]byte, -len(data)&3)...)
	_, _ = c.w.Write(padded)
	c.size += len(padded)
}
