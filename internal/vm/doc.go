// Package vm gathers the state of VMs for people: from their files, systemd, the
// journal, their control groups and the neighbour table.
package vm
