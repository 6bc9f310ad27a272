// Package guest connects to servers in a guest: through the kernel's vsock, or through
// the Unix socket on which some hypervisors multiplex it.
package guest
