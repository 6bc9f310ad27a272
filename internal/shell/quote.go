package shell

import "strings"

// Quote returns text quoted as one word of a shell command line. It may contain
// anything but NUL bytes.
func Quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
