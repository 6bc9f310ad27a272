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

// sandboxes are the directives of systemd.exec(5) that are measured one by one.
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

// ours matches the directives that define what a unit does, not what it may do.
var ours = regexp.MustCompile(`^(Type|Exec\w+|NotifyAccess|RemainAfterExit|Restart\w*|Timeout\w+|KillMode|SyslogIdentifier|Delegate|OOMPolicy)=`)

// units measures the time that the sandbox of each unit adds to its start, with a
// program that does nothing instead of ours, and prints it next to the exposure that
// systemd-analyze(1) reports. Then it measures single directives.
func units() {
	bare := startCost("")
	fmt.Printf("\nsandbox of a unit, %d starts in bulk, each    added    exposure\n", inBulk)
	fmt.Printf("%-44s %s\n", "no directive at all, the start itself", ms(bare))
	files, err := filepath.Glob(unitDir + "/microvm*@.service")
	if err != nil || len(files) == 0 {
		log.Fatalf("units not found in %s: %v", unitDir, err)
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

// sandboxOf returns the sandbox directives of a unit file.
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

// startCost returns the time of one start of a unit with the given directives whose
// program does nothing.
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

// exposure returns the exposure level of a unit, from 0 to 10, where less is better;
// "?" if systemd-analyze(1) prints none.
func exposure(unit string) string {
	out := sh("systemd-analyze security --no-pager " + strings.TrimSuffix(unit, "@") + "@" + instance + ".service 2>/dev/null | grep -o 'level for.*: [0-9.]* [A-Z]*' || true")
	fields := strings.Fields(out)
	if len(fields) < 2 {
		return "?"
	}
	return fields[len(fields)-2]
}
