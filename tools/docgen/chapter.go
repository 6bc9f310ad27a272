package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/hypervisor"
)

// OptionsChapter returns the reference of all options, in Markdown.
func OptionsChapter(o Options, specSchema []byte) (string, error) {
	all, err := fields(specSchema)
	if err != nil {
		return "", err
	}
	inSpec := map[string]field{}
	for _, f := range all {
		inSpec["microvm."+f.name] = f
	}
	var b strings.Builder
	b.WriteString(`# Options reference

<!-- Generated from nixos-modules/ and internal/spec; go generate ./tools/docgen -->

This chapter lists all options of the NixOS modules. If an option is marked *spec*, a
[spec](./spec.md) has a field of the same name without ` + "`microvm.`" + `, with the same meaning
and default. ` + "`*`" + ` stands for each element of a list, and ` + "`<name>`" + ` for a name that you choose.

## Guests

The options of the module ` + "`microvm`" + `.

`)
	for _, option := range o.Guest {
		f, ok := inSpec[option.Name]
		writeOption(&b, option, f, ok)
	}
	b.WriteString("## Fields that only a spec has\n\nNixOS derives these from other settings.\n\n")
	for _, f := range all {
		if instead, ok := onlySpec[f.name]; ok {
			fmt.Fprintf(&b, "### `%s`\n\n%s\n\nIn NixOS: %s.\n\n", f.name, f.Description, instead)
		}
	}
	b.WriteString("## Hosts\n\nThe options of the module `host`.\n\n")
	for _, option := range o.Host {
		writeOption(&b, option, field{}, false)
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

// writeOption writes the entry of an option. f is the field of the spec of the same
// name, if inSpec.
func writeOption(b *strings.Builder, o Option, f field, inSpec bool) {
	fmt.Fprintf(b, "### `%s`\n\n", o.Name)
	if d := strings.TrimSpace(o.Description); d != "" {
		fmt.Fprintf(b, "%s\n\n", d)
	}
	fmt.Fprintf(b, "- type: %s\n", o.Type)
	if o.Default != nil {
		fmt.Fprintf(b, "- default: %s\n", code(*o.Default))
	}
	if o.Example != nil {
		fmt.Fprintf(b, "- example: %s\n", code(*o.Example))
	}
	if o.ReadOnly {
		b.WriteString("- read-only\n")
	}
	if inSpec {
		word := "- spec"
		if f.Description != "" {
			word += ": " + f.Description
		}
		fmt.Fprintf(b, "%s\n", word)
	}
	b.WriteString("\n")
}

// code returns an expression as a code span, or as a code block if it has several
// lines.
func code(text string) string {
	text = strings.TrimSpace(text)
	if !strings.Contains(text, "\n") {
		return "`` " + text + " ``"
	}
	return "\n\n  ```nix\n  " + strings.ReplaceAll(text, "\n", "\n  ") + "\n  ```\n"
}

// HypervisorTable returns the table of what each hypervisor supports, in Markdown. The
// build refuses specs by the same data.
func HypervisorTable() (string, error) {
	table, err := hypervisor.Table()
	if err != nil {
		return "", err
	}
	names := slices.Sorted(maps.Keys(table))
	rows := []struct {
		what string
		cell func(hypervisor.Capabilities) string
	}{
		{"`interfaces.*.type`", func(c hypervisor.Capabilities) string { return list(c.Interfaces) }},
		{"multi-queue taps", func(c hypervisor.Capabilities) string { return list(c.TapMultiQueue) }},
		{"macvtap by descriptors", func(c hypervisor.Capabilities) string { return yes(c.MacvtapByFD) }},
		{"`interfaces.*.tap.vhost`", func(c hypervisor.Capabilities) string { return yes(c.TapVhost) }},
		{"`forwardPorts`", func(c hypervisor.Capabilities) string { return yes(c.ForwardPorts) }},
		{"`shares.*.proto`", func(c hypervisor.Capabilities) string { return list(c.Shares) }},
		{"read-only 9p shares", func(c hypervisor.Capabilities) string { return yes(c.ReadOnly9p) }},
		{"`devices.*.bus`", func(c hypervisor.Capabilities) string { return list(c.Devices) }},
		{"`vcpu`, at most", func(c hypervisor.Capabilities) string { return most(c.MaxVCPU) }},
		{"`mem` in MiB, at least", func(c hypervisor.Capabilities) string { return strconv.Itoa(c.MinMem) }},
		{"`mem` in MiB, at most", func(c hypervisor.Capabilities) string { return most(c.MaxMem) }},
		{"devices on its bus, at most", func(c hypervisor.Capabilities) string { return most(c.MaxDevices) }},
		{"`volumes.*.imageType`", func(c hypervisor.Capabilities) string { return list(c.ImageTypes) }},
		{"`volumes.*.serial`", func(c hypervisor.Capabilities) string { return yes(c.VolumeSerial) }},
		{"`volumes.*.direct`", func(c hypervisor.Capabilities) string { return yes(c.VolumeDirect) }},
		{"`volumes.*.shared`", func(c hypervisor.Capabilities) string { return yes(c.VolumeShared) }},
		{"`balloon`", func(c hypervisor.Capabilities) string { return yes(c.Balloon) }},
		{"`initialBalloonMem`", func(c hypervisor.Capabilities) string { return yes(c.InitialBalloonMem) }},
		{"`hotplugMem`", func(c hypervisor.Capabilities) string { return yes(c.HotplugMem) }},
		{"`hugepageMem`", func(c hypervisor.Capabilities) string { return yes(c.HugepageMem) }},
		{"`cpu` (emulation)", func(c hypervisor.Capabilities) string { return yes(c.CPU) }},
		{"`graphics.enable`", func(c hypervisor.Capabilities) string { return yes(c.Graphics) }},
		{"`credentialFiles`", func(c hypervisor.Capabilities) string { return yes(c.CredentialFiles) }},
		{"`vsock.cid` through", func(c hypervisor.Capabilities) string { return c.Vsock }},
		{"readiness by the guest", func(c hypervisor.Capabilities) string { return yes(c.GuestReadiness) }},
		{"graceful shutdown", func(c hypervisor.Capabilities) string { return list(c.Shutdown) }},
		{"guest can power off", func(c hypervisor.Capabilities) string { return list(c.PowerOff) }},
		{"guests", func(c hypervisor.Capabilities) string { return list(c.Archs) }},
	}
	var b strings.Builder
	b.WriteString("<!-- Generated from internal/hypervisor/capabilities.json; go generate ./tools/docgen -->\n\n")
	fmt.Fprintf(&b, "| | %s |\n|---%s|\n", strings.Join(names, " | "), strings.Repeat("|---", len(names)))
	for _, row := range rows {
		cells := []string{row.what}
		for _, name := range names {
			cells = append(cells, row.cell(table[name]))
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String(), nil
}

// most returns a limit: one number if it is the same for all keys, otherwise each
// number with its key.
func most(limits map[string]int) string {
	names := slices.Sorted(maps.Keys(limits))
	if len(names) == 0 {
		return "–"
	}
	same := true
	words := make([]string, len(names))
	for i, name := range names {
		same = same && limits[name] == limits[names[0]]
		words[i] = fmt.Sprintf("%s: %d", name, limits[name])
	}
	if same {
		return strconv.Itoa(limits[names[0]])
	}
	return strings.Join(words, ", ")
}

func list(words []string) string {
	if len(words) == 0 {
		return "–"
	}
	return strings.Join(words, ", ")
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "–"
}
