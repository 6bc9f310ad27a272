package start

import (
	"encoding/base64"

	"microvm/internal/guest"
	"microvm/internal/hypervisor"
)

// newKey creates the key of this start, if the plan shuts the guest down over SSH. It
// returns the public key, encoded as the value of the plan's placeholder.
func newKey(plan *hypervisor.Plan) (string, error) {
	if plan.Shutdown.SSH == nil {
		return "", nil
	}
	line, err := guest.NewKey(plan.Shutdown.SSH.Key)
	return base64.StdEncoding.EncodeToString([]byte(line)), err
}
