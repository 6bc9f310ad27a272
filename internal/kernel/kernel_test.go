package kernel

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"microvm/test/need"
)

// image creates a compressed kernel with that payload.
func image(t *testing.T, payload []byte) string {
	t.Helper()
	const sectors, offset = 2, 32
	data := make([]byte, (sectors+1)*sector+offset)
	data[setupSectors] = sectors
	copy(data[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint16(data[protocol:], 0x20f)
	binary.LittleEndian.PutUint32(data[payloadOffset:], offset)
	binary.LittleEndian.PutUint32(data[payloadLength:], uint32(len(payload)))
	path := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(path, append(append(data, payload...), "signature"...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// compress compresses like a kernel's build, with the size after it.
func compress(t *testing.T, f format, data []byte) []byte {
	t.Helper()
	program := need.Program(t, f.program)
	cmd := exec.Command(program, "-c")
	if f.name == "lz4" {
		cmd = exec.Command(program, "-l", "-c")
	}
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if f.trailer > 0 {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	}
	return out
}

func TestVersionIsRead(t *testing.T) {
	write := func(text string) string {
		path := image(t, make([]byte, 1000))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint16(data[versionText:], 0x300-sector)
		copy(data[0x300:], text+"\x00")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if major, minor, err := Version(write("6.12.107+deb13-amd64 (somebody@example.org)")); major != 6 || minor != 12 || err != nil {
		t.Errorf("version %d.%d, %v", major, minor, err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("Linux version 6.12"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{write("unknown"), image(t, nil), text, "/nonexistent"} {
		if major, minor, err := Version(path); err == nil {
			t.Errorf("%s has version %d.%d", path, major, minor)
		}
	}
}

func TestELFComesOutOfEveryFormat(t *testing.T) {
	want := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 5000)...)
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			path := image(t, compress(t, f, want))
			if !IsCompressed(path) {
				t.Error("not recognized as a compressed kernel")
			}
			got, err := ELF(path)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
			}
		})
	}
}

func TestWhatIsNoKernelIsRefused(t *testing.T) {
	gzip := formats[0]
	whole := image(t, compress(t, gzip, []byte("\x7fELF and more, so that it is long enough")))
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, data[:len(data)-30], 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		cut: ": truncated",
		image(t, []byte("nothing that anybody would know")):                  "unknown compression format",
		image(t, compress(t, gzip, []byte("no ELF image at all, but long"))): "contains no ELF image",
		image(t, append([]byte("\x1f\x8b"), make([]byte, 40)...)):            "gzip: exit status",
		"/dev/null":        "not a compressed x86 kernel",
		"/nonexistent/abc": "no such file",
	} {
		if _, err := ELF(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if IsCompressed("/dev/null") || IsCompressed("/nonexistent") {
		t.Error("recognized as a compressed kernel")
	}
}
