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

// logReady logs how long the start took, as a line for people and as fields that
// microvm analyze reads. It is called before READY=1 is sent, so the entry is in the
// journal when the start job ends.
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

// log writes a line directly to the journal, or else to standard error. The
// hypervisor writes the guest's console to the same standard error, and
// systemd-journald ends a line when the sending process changes: an own line there
// would split the guest's. Fields, each NAME=VALUE, go only to the journal.
func (c *child) log(text string, fields ...string) {
	if ours, err := journal.StderrIsJournalStream(); ours && err == nil && c.toJournal(text, fields) == nil {
		return
	}
	_, _ = fmt.Fprintln(os.Stderr, text)
}

// journalSocket receives entries in systemd's JOURNAL_NATIVE_PROTOCOL.
const journalSocket = "/run/systemd/journal/socket"

// journalTimeout is how long a busy journal may take to receive a line.
const journalTimeout = 5 * time.Second

// toJournal sends an entry and waits until the journal has received it: journald
// looks up the unit of the sending process, and this one ends soon after.
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
