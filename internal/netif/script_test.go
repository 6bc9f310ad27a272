package netif

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatATapScriptLeavesRunningKeepsNobody(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nsleep 30 >&2 &\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := (Taps{Script: script, Taps: []Tap{{Name: "vm-a"}}}).runScript(); err != nil {
		t.Errorf("a script that went well: %v", err)
	}
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("it took %s", took)
	}
}
