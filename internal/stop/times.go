package stop

import (
	"time"

	"microvm/internal/systemd"
)

// Times are how long each stage of a stop may take.
type Times struct {
	// Graceful is how long the guest may take to go down.
	Graceful time.Duration
	// Again is after what time a guest that does not react is asked again: a guest
	// that is still booting loses the first request.
	Again time.Duration
	// Login is how long the login may take, for a guest that is asked over SSH.
	Login time.Duration
	// Term is how long the hypervisor may take to exit after SIGTERM.
	Term time.Duration
}

// DefaultTimes are those within the unit's default of 90 s.
var DefaultTimes = Within(defaultTotal)

const defaultTotal = 90 * time.Second

// Within divides total, the service manager's timeout for a stop, so that the last
// stage ends before it. With systemd.Infinity, a guest that was asked may take as
// long as it needs.
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
