package spec

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// Limits of names, with where each comes from.
const (
	maxVMName        = 63  // the design; also a host name label, RFC 1035
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

// pattern is a regular expression that is compiled at its first use: every
// helper has this package, and compiling all of them took it a millisecond at
// each start.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// ValidateVMName checks a VM's name: the characters that systemd allows in an
// instance name unescaped (systemd.unit(5)), no leading dot or dash, at most
// 63 bytes.
func ValidateVMName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a VM needs a name, such as \"web\"")
	case len(name) > maxVMName:
		return fmt.Errorf("VM name %q is %d bytes; at most %d are allowed", name, len(name), maxVMName)
	case !vmName().MatchString(name):
		return fmt.Errorf("VM name %q is not allowed; use letters, digits, \":\", \"_\", \"-\" and \".\", and start with a letter or a digit", name)
	}
	return nil
}

// ValidateInterfaceName checks the name of a network interface as the kernel
// does (dev_valid_name), and rejects what tools cannot take.
func ValidateInterfaceName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("an interface needs a name, such as \"vm-web\"")
	case len(name) > maxInterfaceName:
		return fmt.Errorf("%q is %d bytes; Linux allows %d", name, len(name), maxInterfaceName)
	case name == "." || name == ".." || strings.HasPrefix(name, "-"):
		return fmt.Errorf("%q is not allowed as an interface name; choose another", name)
	case name == "all" || name == "default":
		// They are directories of net.ipv4.conf; register_netdevice fails with EINVAL.
		return fmt.Errorf("%q is not allowed as an interface name: Linux keeps it for settings\nhint: choose another, such as \"vm-web\"", name)
	}
	return ValidateInterfaceLabel(name)
}

// ValidateInterfaceLabel checks the name of an interface that the host does not
// get: a user network's, or one of which a bridge's helper chooses the name.
func ValidateInterfaceLabel(name string) error {
	if name == "" || len(name) > maxInterfaceName || name == "." || name == ".." || strings.HasPrefix(name, "-") {
		return ValidateInterfaceName(name)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("/:%,\"'\\", c) >= 0 {
			return fmt.Errorf("%q holds %q, which an interface name cannot; use letters, digits, \"-\", \"_\" and \".\"", name, c)
		}
	}
	return nil
}

// ValidateMAC checks a guest's unicast Ethernet address.
func ValidateMAC(mac string) error {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 || strings.Count(mac, ":") != 5 {
		return fmt.Errorf("%q is no MAC address; write six bytes as in 02:00:00:00:00:01", mac)
	}
	if hw[0]&1 != 0 {
		return fmt.Errorf("%q is a multicast address; the first byte must be even, as in 02:00:00:00:00:01", mac)
	}
	return nil
}

// ValidatePCIAddress checks a full PCI address in sysfs's form.
func ValidatePCIAddress(address string) error {
	if !pciAddress().MatchString(address) {
		return fmt.Errorf("%q is no PCI address; write it as lspci -D does, 0000:01:00.0", address)
	}
	return nil
}

// ValidateTag checks a share's tag.
func ValidateTag(tag string) error { return ValidateWord("tag", tag) }

// ValidateWord checks what is a file name in the runner package, goes into command
// lines, or is printed: what says in the error what it is, such as "tag".
func ValidateWord(what, word string) error {
	if word == "." || word == ".." || !plainWord().MatchString(word) {
		return fmt.Errorf("%q is not allowed as a %s; use letters, digits, \"-\", \"_\", \".\" and \"+\"", word, what)
	}
	return nil
}

// ValidateSocketPath checks a Unix socket's path, which has to lie inside the
// VM's state directory. dirLength is the length of that directory's path in
// bytes; the whole has to fit into sun_path (unix(7)).
func ValidateSocketPath(path string, dirLength int) error {
	if err := ValidateInside(path); err != nil {
		return err
	}
	if n := dirLength + 1 + len(path); n > maxSocketPath {
		return fmt.Errorf("%q is %d bytes with its state directory; a socket's path has at most %d", path, n, maxSocketPath)
	}
	return nil
}

// ValidateInside checks that a relative path stays inside its directory.
func ValidateInside(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("the path is empty; name one, or leave the field out")
	case !isInside(path):
		return fmt.Errorf("%q has to be a plain relative path inside the state directory, %s", path, inside(path))
	}
	return validateText(path)
}

// validateDirectory checks a directory's path, which may be the VM's own directory.
func validateDirectory(path string) error {
	if path == "." {
		return nil
	}
	return validatePath(path)
}

// validatePath checks a path that is absolute, or stays inside its directory.
func validatePath(path string) error {
	if !filepath.IsAbs(path) && !isInside(path) {
		return fmt.Errorf("%q has to be a plain relative path inside the state directory, %s, or an absolute path", path, inside(path))
	}
	return validateText(path)
}

func isInside(path string) bool {
	return filepath.IsLocal(path) && filepath.Clean(path) == path && path != "."
}

// inside says what to write in the place of a path that does not stay inside its
// directory: its last part, where that would do.
func inside(path string) string {
	if base := filepath.Base(path); isInside(base) {
		return fmt.Sprintf("such as %q", base)
	}
	return "without \".\" and \"..\""
}

// ValidateJailPath checks the absolute path of a host's file that a jailed VM is
// to see. It goes into a unit file, where systemd.syntax(7) and systemd.exec(5)
// give a meaning to many characters; none of those is let through, so that there
// is nothing to escape.
func ValidateJailPath(path string) error {
	switch {
	case !jailPath().MatchString(path):
		return fmt.Errorf("%q cannot stand in the unit of a jailed VM; use an absolute path of letters, digits and the characters / _ + @ = . , ~ -", path)
	case filepath.Clean(path) != path:
		return fmt.Errorf("%q is not a plain path; write it as %q", path, filepath.Clean(path))
	case under(path, "/proc", "/sys"):
		return fmt.Errorf("%q is the kernel's; a jailed VM has only the files of disks, kernels and programs", path)
	}
	return nil
}

// under says whether path is one of dirs, or below one.
func under(path string, dirs ...string) bool {
	for _, dir := range dirs {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// validateText rejects what can stand in no command line and no text file.
func validateText(s string) error {
	if i := strings.IndexAny(s, "\x00\n\r"); i >= 0 {
		return fmt.Errorf("%q holds a line break or a NUL byte; remove it", s)
	}
	return nil
}
