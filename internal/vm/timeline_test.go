package vm

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"microvm/internal/timeline"
)

func TestEntriesOfTheJournalAreRead(t *testing.T) {
	const out = `{"__MONOTONIC_TIMESTAMP":"1000000","MESSAGE":"[    0.000000] Linux\r"}
{"__MONOTONIC_TIMESTAMP":"2000000","MESSAGE":[27,91,51]}
{"__MONOTONIC_TIMESTAMP":"3000000","MESSAGE":null,"MICROVM_READY_USEC":"5"}
not JSON
{"__MONOTONIC_TIMESTAMP":"soon","MESSAGE":"x"}
{"__MONOTONIC_TIMESTAMP":"4000000","MESSAGE":"ready","MICROVM_READY_USEC":["1","2"]}
{"__MONOTONIC_TIMESTAMP":"5000000","MESSAGE":"ready","MICROVM_READY_USEC":"4950000","MICROVM_REPORT_USEC":"-1"}
`
	want := []timeline.Entry{
		{At: time.Second, Text: "[    0.000000] Linux"},
		{At: 3 * time.Second, Ready: 5 * time.Microsecond},
		{At: 5 * time.Second, Text: "ready", Ready: 4950 * time.Millisecond},
	}
	if diff := cmp.Diff(want, readEntries([]byte(out))); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}
