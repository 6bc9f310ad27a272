package spec

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// Limits of names, with where each comes from.
const (
	maxVMName        = 63  // a host name label, RFC 1035
	maxInterfaceName = 15  // IFNAMSIZ-1, linux/if.h
	maxVirtiofsTag   = 36  // virtio 1.2, 5.11.4: tag[36]
	maxNinePTag      = 31  // QEMU hw/9pfs: MAX_TAG_LEN-1
	maxSocketPath    = 107 // sun_path less its NUL, unix(7)
)

var (
	vmName     = pattern(`^[a-zA-Z0-9:_][a-zA-Z0-9:_.\-]*$`)
	pciAddress = pattern(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	jailPath   = pattern(`^(/[a-zA-Z0-9_+@=.,~\-]+)+$`)
	plainWord  = pattern(`^[a-zA-Z0-9_.+\-]+$`)
)

// pattern returns a function that compiles a regular expression at its first call.
// Every helper links this package, and compiling all expressions at every start took
// a millisecond.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// ValidateVMName checks a VM's name: the characters that systemd allows in an
// instance name unescaped (systemd.unit(5)), no leading dot or dash, at most
// 63 bytes.
func ValidateVMName(name string) error {
	switch {
	case name == "":
		return errors.New("VM name is required")
	case len(name) > maxVMName:
		return fmt.Errorf("invalid VM name %q: must be at most %d bytes, not %d", name, maxVMName, len(name))
	case !vmName().MatchString(name):
		return withHint(fmt.Sprintf("invalid VM name %q", name),
			"use letters, digits, \":\", \"_\", \"-\" and \".\", and start with a letter or a digit")
	}
	return nil
}

// ValidateInterfaceName checks the name of a network interface as the kernel does
// (dev_valid_name), and rejects names that tools do not accept.
func ValidateInterfaceName(name string) error {
	switch {
	case name == "":
		return errors.New("interface name is required")
	case len(name) > maxInterfaceName:
		return fmt.Errorf("invalid interface name %q: must be at most %d bytes, not %d", name, maxInterfaceName, len(name))
	case name == "." || name == ".." || strings.HasPrefix(name, "-"):
		return fmt.Errorf("invalid interface name %q: must not be \".\" or \"..\" nor start with \"-\"", name)
	case name == "all" || name == "default":
		// They are directories of net.ipv4.conf; register_netdevice fails with EINVAL.
		return withHint(fmt.Sprintf("invalid interface name %q: reserved by Linux", name), "choose another name, such as \"vm-web\"")
	}
	return ValidateInterfaceLabel(name)
}

// ValidateInterfaceLabel checks the name of an interface that does not exist on the
// host by that name: that of a user network, or one that a bridge's helper names.
func ValidateInterfaceLabel(name string) error {
	if name == "" || len(name) > maxInterfaceName || name == "." || name == ".." || strings.HasPrefix(name, "-") {
		return ValidateInterfaceName(name)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("/:%,\"'\\", c) >= 0 {
			return withHint(fmt.Sprintf("invalid interface name %q: must not contain %q", name, c), plainLetters)
		}
	}
	return nil
}

// plainLetters is the remedy for names with other characters.
const plainLetters = "use letters, digits, \"-\", \"_\" and \".\""

// ValidateMAC checks a guest's Ethernet address, which must be unicast.
func ValidateMAC(mac string) error {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 || strings.Count(mac, ":") != 5 {
		return fmt.Errorf("invalid MAC address %q: must be six bytes, as in 02:00:00:00:00:01", mac)
	}
	if hw[0]&1 != 0 {
		return withHint(fmt.Sprintf("invalid MAC address %q: must not be multicast", mac), "use an even first byte, as in 02:00:00:00:00:01")
	}
	return nil
}

// ValidatePCIAddress checks a PCI address with its domain, as sysfs has it.
func ValidatePCIAddress(address string) error {
	if !pciAddress().MatchString(address) {
		return withHint(fmt.Sprintf("invalid PCI address %q: must be of the form 0000:01:00.0", address), "list the host's devices with: lspci -D")
	}
	return nil
}

// ValidateTag checks a share's tag.
func ValidateTag(tag string) error { return ValidateWord("tag", tag) }

// ValidateWord checks a string that becomes a file name in the runner package or a
// part of a command line, or that is printed. The error calls it what, such as "tag".
func ValidateWord(what, word string) error {
	if word == "." || word == ".." || !plainWord().MatchString(word) {
		return withHint(fmt.Sprintf("invalid %s %q", what, word), "use letters, digits, \"-\", \"_\", \".\" and \"+\"")
	}
	return nil
}

// ValidateSocketPath checks a Unix socket's path, which must be relative to the VM's
// state directory and stay inside it. dirLength is the length of that directory's path
// in bytes; the absolute path must fit into sun_path (unix(7)).
func ValidateSocketPath(path string, dirLength int) error {
	if err := ValidateInside(path); err != nil {
		return err
	}
	if n := dirLength + 1 + len(path); n > maxSocketPath {
		return fmt.Errorf("invalid socket path %q: must be at most %d bytes with the state directory, not %d", path, maxSocketPath, n)
	}
	return nil
}

// ValidateInside checks that a relative path stays inside its directory.
func ValidateInside(path string) error {
	switch {
	case path == "":
		return withHint("path is empty", "set a path, or leave the field out")
	case !isInside(path):
		return fmt.Errorf("invalid path %q: must be inside the state directory, %s", path, inside(path))
	}
	return validateText(path)
}

// validateDirectory checks a directory's path, which may be the state directory itself.
func validateDirectory(path string) error {
	if path == "." {
		return nil
	}
	return validatePath(path)
}

// validatePath checks a path that is absolute, or relative to the state directory and
// inside it.
func validatePath(path string) error {
	if !filepath.IsAbs(path) && !isInside(path) {
		return fmt.Errorf("invalid path %q: must be inside the state directory, %s, or absolute", path, inside(path))
	}
	return validateText(path)
}

func isInside(path string) bool {
	return filepath.IsLocal(path) && filepath.Clean(path) == path && path != "."
}

// inside describes what would be valid in place of a path that leaves its directory:
// its last element, if that is valid.
func inside(path string) string {
	if base := filepath.Base(path); isInside(base) {
		return fmt.Sprintf("such as %q", base)
	}
	return "without \".\" and \"..\""
}

// ValidateJailPath checks the absolute path of a host's file that a jailed VM sees. It
// is written into a unit file, where systemd.syntax(7) and systemd.exec(5) give a
// meaning to many characters. All of those are refused, so nothing has to be escaped.
func ValidateJailPath(path string) error {
	switch {
	case !jailPath().MatchString(path):
		return withHint(fmt.Sprintf("invalid path %q for a jailed VM", path), "use an absolute path of letters, digits and the characters / _ + @ = . , ~ -")
	case filepath.Clean(path) != path:
		return fmt.Errorf("invalid path %q: must be written as %q", path, filepath.Clean(path))
	case under(path, "/proc", "/sys"):
		return fmt.Errorf("invalid path %q: a jailed VM has no files of /proc and /sys", path)
	}
	return nil
}

// under reports whether path is one of dirs, or below one.
func under(path string, dirs ...string) bool {
	for _, dir := range dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// validateText rejects characters that no command line and no text file of a package
// can contain.
func validateText(s string) error {
	if i := strings.IndexAny(s, "\x00\n\r"); i >= 0 {
		return fmt.Errorf("%q contains a line break or a NUL byte", s)
	}
	return nil
}
