package start

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"microvm/internal/askguest"
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

// KeyOwner is the hypervisor that runs in dir, by the key that its start left
// there as name.
func KeyOwner(dir, name string) (*Process, error) {
	k, err := guest.ReadKey(dir, name)
	if err != nil {
		return nil, fmt.Errorf("%w; is the VM running?", err)
	}
	// What it says is its owner's word, for whom root is not to end a process.
	if k.UID != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to user %d; stop the VM as that user, or with: microvm stop NAME", filepath.Join(dir, name), k.UID)
	}
	return hypervisorIn(dir, k.PID, []int{k.UID})
}

// askOverSSH asks the guest. It returns nil when the guest goes down or the
// hypervisor is gone, and an error where the guest could not be asked, or did not
// go down before ctx ended.
func (s *stopping) askOverSSH(ctx context.Context, plan *hypervisor.Plan, dir string) error {
	how := plan.Shutdown.SSH
	s.launcher.logf("asking the guest to go down by %s", plan.Shutdown.Method)
	ended := make(chan error, 1)
	go func() {
		ended <- askguest.Ask(ctx, askguest.Request{
			Address: guest.Address{CID: uint32(*plan.VsockCID), Socket: how.VsockSocket, Dir: dir},
			Key:     how.Key, Command: how.Command, Login: s.times.Login,
			// One that has reported that it is up has its sshd by now, or none.
			Booting: plan.Readiness.Mode != hypervisor.ReadyGuest,
			Asked:   func() { s.launcher.logf("the guest runs %q, %s after it was first asked", how.Command, s.elapsed()) },
		})
	}()
	select {
	case <-s.process.dead:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the guest did not go down within %s, asked by %s", s.elapsed(), plan.Shutdown.Method)
	case err := <-ended:
		switch {
		case s.exited():
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("the guest did not go down within %s, asked by %s", s.elapsed(), plan.Shutdown.Method)
		case err != nil:
			return fmt.Errorf("the guest cannot be asked over ssh: %w", err)
		}
	}
	s.launcher.logf("the guest goes down, %s after it was first asked", s.elapsed())
	return nil
}
