// Package shell quotes text for the shell, sh(1).
package shell
