package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	unitDir  = "/usr/lib/systemd/system"
	instance = "v0"
	// inBulk is how many instances one systemctl start starts.
	inBulk = 50
)

// sandboxes are the directives that a unit could have, measured one by one:
// systemd.exec(5).
var sandboxes = []string{
	"CapabilityBoundingSet=CAP_NET_ADMIN\nNoNewPrivileges=yes",
	"RestrictAddressFamilies=AF_UNIX\nRestrictNamespaces=yes\nRestrictRealtime=yes\nLockPersonality=yes",
	"SystemCallFilter=@system-service\nSystemCallArchitectures=native",
	"PrivateUsers=yes",
	"PrivateIPC=yes",
	"PrivateTmp=yes",
	"ProtectSystem=strict",
	"ProtectHome=yes",
	"ProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes",
	"TemporaryFileSystem=/var/lib/microvms:ro\nBindPaths=-/var/lib/microvms/%i",
	"ProtectProc=invisible",
	"ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nProtectControlGroups=yes",
	"ProtectClock=yes\nProtectHostname=yes",
	"DevicePolicy=closed\nDeviceAllow=/dev/kvm rw",
	"PrivateDevices=yes",
}

// ours matches what a unit does, as opposed to what it may do.
var ours = regexp.MustCompile(`^(Type|Exec\w+|NotifyAccess|RemainAfterExit|Restart\w*|Timeout\w+|KillMode|SyslogIdentifier|Delegate|OOMPolicy)=`)

// units measures what the sandbox of each unit adds to its start, with a program
// that does nothing in the place of ours, and prints it beside the exposure that
// systemd-analyze security(1) gives; then what single directives add.
func units() {
	bare := startCost("")
	fmt.Printf("\nsandbox of a unit, %d starts in bulk, each    added    exposure\n", inBulk)
	fmt.Printf("%-44s %s\n", "no directive at all, the start itself", ms(bare))
	files, err := filepath.Glob(unitDir + "/microvm*@.service")
	if err != nil || len(files) == 0 {
		log.Fatalf("no units in %s: %v", unitDir, err)
	}
	for _, file := range files {
		unit := strings.TrimSuffix(filepath.Base(file), ".service")
		fmt.Printf("%-44s %s    %s\n", unit, ms(startCost(sandboxOf(file))-bare), exposure(unit))
	}
	fmt.Printf("\none directive, %d starts in bulk, each        added\n", inBulk)
	for _, directives := range sandboxes {
		fmt.Printf("%s  %s\n", ms(startCost(directives)-bare), strings.ReplaceAll(directives, "\n", " "))
	}
}

// sandboxOf is what a unit's service may do.
func sandboxOf(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	_, service, _ := strings.Cut(string(data), "[Service]")
	service, _, _ = strings.Cut(service, "[Install]")
	var kept []string
	for line := range strings.Lines(service) {
		if !ours.MatchString(line) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// startCost is what one start takes of a unit that does nothing under the given
// directives.
func startCost(directives string) time.Duration {
	text := "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n" + directives + "\n"
	if err := os.WriteFile("/run/systemd/system/cost@.service", []byte(text), 0o644); err != nil {
		log.Fatal(err)
	}
	sh("systemctl daemon-reload")
	words := []string{"systemctl", "start"}
	for i := range inBulk {
		words = append(words, fmt.Sprintf("cost@v%d.service", i))
	}
	return median(7, func() time.Duration {
		took := spawn(words...)
		sh("systemctl stop 'cost@*'")
		return took
	}) / inBulk
}

// exposure is systemd's number for a unit, 0 to 10, less is better.
func exposure(unit string) string {
	out := sh("systemd-analyze security --no-pager " + strings.TrimSuffix(unit, "@") + "@" + instance + ".service 2>/dev/null | grep -o 'level for.*: [0-9.]* [A-Z]*' || true")
	fields := strings.Fields(out)
	if len(fields) < 2 {
		return "?"
	}
	return fields[len(fields)-2]
}
