package term

import (
	"fmt"
	"time"
)

// Ago returns a duration in its two largest units, such as 3h05m.
func Ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// Bytes returns a number of bytes in a binary unit, such as 1.5G.
func Bytes(n uint64) string {
	const unit = 1024
	if n < unit*unit {
		return fmt.Sprintf("%dK", n/unit)
	}
	value, suffix := float64(n)/(unit*unit), "M"
	if value >= unit {
		value, suffix = value/unit, "G"
	}
	if value < 10 {
		return fmt.Sprintf("%.1f%s", value, suffix)
	}
	return fmt.Sprintf("%.0f%s", value, suffix)
}
