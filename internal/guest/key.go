package guest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"microvm/internal/safepath"
)

// Key is the shutdown key, which a start leaves for the stop in a file that only its
// owner reads.
type Key struct {
	// PID is the hypervisor, for a stop without units.
	PID int
	// UID is the file's owner.
	UID int
	// Private is the key that the guest accepts.
	Private ed25519.PrivateKey
}

// maxKeyFile is larger than any key's file, in bytes.
const maxKeyFile = 256

// NewKey creates a key for a start by this process, writes it to path and returns the
// line of authorized_keys that accepts it.
func NewKey(path string) (line string, err error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", fmt.Errorf("create the shutdown key: %w", err)
	}
	text := fmt.Sprintf("%d %s\n", os.Getpid(), base64.StdEncoding.EncodeToString(private.Seed()))
	if err := writeKey(path, text); err != nil {
		return "", fmt.Errorf("write the shutdown key: %w", err)
	}
	return authorizedLine(public), nil
}

// authorizedLine returns the key as a line of authorized_keys, sshd(8). It is encoded
// here, so that a start does not need package ssh.
func authorizedLine(key ed25519.PublicKey) string {
	const kind = "ssh-ed25519"
	var wire []byte // RFC 8709, section 4
	for _, field := range [][]byte{[]byte(kind), key} {
		wire = binary.BigEndian.AppendUint32(wire, uint32(len(field)))
		wire = append(wire, field...)
	}
	return kind + " " + base64.StdEncoding.EncodeToString(wire)
}

// writeKey writes the file atomically: a reader finds the whole of it, or what was
// there before.
func writeKey(path, text string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

// ReadKey reads the key that NewKey wrote to name beneath dir. The hypervisor may have
// replaced it, so ReadKey follows no links and does not block.
func ReadKey(dir, name string) (Key, error) {
	k, err := readKey(dir, name)
	if err != nil {
		return Key{}, fmt.Errorf("read the shutdown key %s: %w", filepath.Join(dir, name), err)
	}
	return k, nil
}

func readKey(dir, name string) (Key, error) {
	root, err := safepath.OpenDir(dir)
	if err != nil {
		return Key{}, err
	}
	defer safepath.Close(root)
	file, err := safepath.OpenFile(root, name)
	if err != nil {
		return Key{}, err
	}
	defer func() { _ = file.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return Key{}, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return Key{}, err
	}
	k, err := parseKey(data)
	k.UID = int(st.Uid)
	return k, err
}

func parseKey(data []byte) (Key, error) {
	var k Key
	var text string
	if _, err := fmt.Fscanf(bytes.NewReader(data), "%d %s\n", &k.PID, &text); err != nil {
		return Key{}, fmt.Errorf("invalid key: %w", err)
	}
	seed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(seed) != ed25519.SeedSize {
		return Key{}, errors.New("invalid key")
	}
	k.Private = ed25519.NewKeyFromSeed(seed)
	return k, nil
}
