package start

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"microvm/internal/timeline"
	"microvm/internal/unit"
)

// logReady logs how long the start took: a line for people, and fields that microvm
// analyze reads. It comes before READY=1, so that it is in the journal when a start
// returns.
func (c *child) logReady() {
	ready := time.Since(c.began)
	text := fmt.Sprintf("%s: ready %.3f s after the hypervisor was started", wrapper, ready.Seconds())
	fields := []string{fmt.Sprintf("%s=%d", timeline.ReadyField, ready.Microseconds())}
	if c.first > 0 {
		text += fmt.Sprintf("; its guest first reported after %.3f s", c.first.Seconds())
		fields = append(fields, fmt.Sprintf("%s=%d", timeline.ReportField, c.first.Microseconds()))
	}
	c.log(text, fields...)
}

// log writes a line to the journal by a way of its own: on standard error, which
// is the hypervisor's as well, systemd-journald would take the change of the
// sender for the end of a line, and the guest is just writing one. Fields, each
// NAME=VALUE, go only to the journal.
func (c *child) log(text string, fields ...string) {
	if ours, err := journal.StderrIsJournalStream(); ours && err == nil && c.toJournal(text, fields) == nil {
		return
	}
	_, _ = fmt.Fprintln(os.Stderr, text)
}

// journalSocket and what is sent there: systemd's JOURNAL_NATIVE_PROTOCOL.
const journalSocket = "/run/systemd/journal/socket"

// journalTimeout is how long a busy journal may take to receive a line.
const journalTimeout = 5 * time.Second

// toJournal sends an entry and waits until the journal has received it: which unit
// it is from, the journal reads from the process that sent it, and this one ends
// soon after.
func (c *child) toJournal(text string, fields []string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	entry := append([]string{"PRIORITY=6", "SYSLOG_IDENTIFIER=" + unit.Process(c.orders.VM), "MESSAGE=" + text}, fields...)
	if err := unix.Sendto(fd, []byte(strings.Join(entry, "\n")+"\n"), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: journalSocket}); err != nil {
		return err
	}
	for deadline := time.Now().Add(journalTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if waiting, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ); err != nil || waiting == 0 {
			break
		}
	}
	return nil
}
