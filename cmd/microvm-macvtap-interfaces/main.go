// Command microvm-macvtap-interfaces makes and removes the macvtap interfaces
// of a VM. It is run by microvm-macvtap-interfaces@.service.
package main

import (
	"os"

	"microvm/internal/helper"
	"microvm/internal/statedir"
)

func main() {
	os.Exit(helper.Macvtap(os.Args[1:], statedir.HostFromEnv(), os.Stderr))
}
