// Package programs contains the small programs of the unit templates, and
// install-microvm. Each reads the VM's package and passes plain values to the package
// that does the work.
package programs
