package stop

import (
	"time"

	"microvm/internal/systemd"
)

// Times are how long each stage of a stop may take.
type Times struct {
	// Graceful is how long the guest has to go down.
	Graceful time.Duration
	// Again is after what time a guest that does not react is asked again: one
	// that still boots loses the first request.
	Again time.Duration
	// Login is how long a guest may take to let us in, where it is asked over SSH.
	Login time.Duration
	// Term is how long the hypervisor has after SIGTERM.
	Term time.Duration
}

// DefaultTimes fit into the 90 s that the unit gives.
var DefaultTimes = Within(defaultTotal)

const defaultTotal = 90 * time.Second

// Within divides the time that the service manager gives to a stop, so that
// the last stage is over before that ends. Where that is systemd.Infinity, the
// guest that was asked is waited for until it is down.
func Within(total time.Duration) Times {
	if total == systemd.Infinity {
		s := Within(defaultTotal)
		s.Graceful, s.Login = total, time.Minute
		return s
	}
	term := min(5*time.Second, total/6)
	graceful := total - 3*term
	return Times{Graceful: graceful, Again: 3 * time.Second, Login: graceful / 10, Term: term}
}
