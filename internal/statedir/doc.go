// Package statedir keeps the state of the VMs of one host: /var/lib/microvms/NAME with
// its links to runner packages, the store of packages on hosts without Nix, and the
// helpers' records in /run/microvm/NAME.
//
// Every change is a new file and a rename, so a crash at any instruction leaves the old
// state or the new one.
package statedir
