// Package netif creates and removes the network interfaces of a VM on the host: taps
// and macvtaps. It knows neither units nor specs. Its caller passes names and ids, and
// stores a record of the changes before and after they are made.
//
// All requests to rtnetlink(7) are in this package; link.go has those that both kinds
// share. Package event only watches for changes.
package netif
