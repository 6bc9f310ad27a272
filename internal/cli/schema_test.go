package cli

import (
	"bytes"
	"encoding/json"
	"testing"

	"microvm/internal/spec"
)

func TestTheSchemaIsPrinted(t *testing.T) {
	h := newHost(t)
	if code := h.microvm("schema"); code != 0 {
		t.Fatal(&h.stderr)
	}
	want := spec.Schema()
	if !json.Valid(h.stdout.Bytes()) || !bytes.Equal(bytes.TrimSpace(want), bytes.TrimSpace(h.stdout.Bytes())) {
		t.Errorf("printed %.200s …", &h.stdout)
	}
}
