package start

import (
	"encoding/base64"

	"microvm/internal/guest"
	"microvm/internal/hypervisor"
)

// newKey makes the key of this start where the plan has the guest asked over SSH.
// It returns the public half as the plan's placeholder stands for it.
func newKey(plan *hypervisor.Plan) (string, error) {
	if plan.Shutdown.SSH == nil {
		return "", nil
	}
	line, err := guest.NewKey(plan.Shutdown.SSH.Key)
	return base64.StdEncoding.EncodeToString([]byte(line)), err
}
