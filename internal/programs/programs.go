// Package programs holds the small programs behind the unit templates, and
// install-microvm: each reads the VM's package and hands plain values to the
// package that does the work.
package programs
