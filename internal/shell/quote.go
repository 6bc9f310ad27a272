// Package shell writes words for the shell, sh(1).
package shell

import "strings"

// Quote returns word as one word of a shell's command line, whatever is in it but a
// NUL byte.
func Quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
