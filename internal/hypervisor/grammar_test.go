package hypervisor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

// carried returns the values in a command line of ours, decoded by the hypervisor's own
// grammar.
func carried(t *testing.T, p *Plan) []string {
	t.Helper()
	var out []string
	for _, arg := range p.Argv[1:] {
		text, err := Expand(arg, func(string) (string, error) { return "0", nil })
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, decode(p.Hypervisor, text)...)
	}
	for _, g := range p.Generated {
		var v any
		if err := json.Unmarshal([]byte(g.Content), &v); err != nil {
			t.Fatal(err)
		}
		out = append(out, leaves(v)...)
	}
	return out
}

func leaves(v any) []string {
	switch v := v.(type) {
	case string:
		text, err := Expand(v, func(string) (string, error) { return "0", nil })
		if err != nil {
			return nil
		}
		return []string{text}
	case map[string]any:
		var out []string
		for _, inner := range v {
			out = append(out, leaves(inner)...)
		}
		return out
	case []any:
		var out []string
		for _, inner := range v {
			out = append(out, leaves(inner)...)
		}
		return out
	}
	return nil
}

// decode returns one argument and the values of its parts.
func decode(hypervisor, arg string) []string {
	out := []string{arg}
	add := func(values ...string) {
		for _, v := range values {
			// "./x" and "x" are the same file.
			out = append(out, v, strings.TrimPrefix(v, "./"))
		}
	}
	switch hypervisor {
	case "qemu":
		for _, part := range strings.Split(strings.ReplaceAll(arg, ",,", "\x01"), ",") {
			_, value, _ := strings.Cut(strings.ReplaceAll(part, "\x01", ","), "=")
			before, _, colon := strings.Cut(value, ":")
			if !strings.HasPrefix(part, "file=") || !colon || strings.Contains(before, "/") {
				add(value)
			}
			if path, ok := strings.CutPrefix(part, "unix:"); ok {
				add(strings.ReplaceAll(path, "\x01", ","))
			}
		}
	case "cloud-hypervisor":
		add(chValues(arg)...)
	case "crosvm":
		if parts := strings.Split(arg, ":"); len(parts) == 3 && strings.HasPrefix(parts[2], "type=") {
			add(parts[0], parts[1])
		}
		for i, part := range strings.Split(arg, ",") {
			key, value, pair := strings.Cut(part, "=")
			identifier := strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
			switch {
			case strings.ContainsAny(part, `"'[]`):
			case pair && identifier:
				add(value)
			case i == 0 && !identifier:
				add(part)
			}
		}
	case "kvmtool":
		if strings.HasPrefix(arg, "mode=") {
			words := strings.FieldsFunc(arg, func(r rune) bool { return r == ',' || r == '=' })
			for i := 1; i < len(words); i += 2 {
				add(words[i])
			}
			break
		}
		add(strings.Split(arg, ",")...)
	case "stratovirt":
		for _, part := range strings.Split(arg, ",") {
			key, value, _ := strings.Cut(part, "=")
			if !strings.Contains(value, "=") && !strings.HasPrefix(value, "-") {
				add(value)
			}
			if path, ok := strings.CutPrefix(key, "unix:"); ok && value == "" {
				add(path)
			}
		}
	case "alioth":
		if _, object, ok := strings.Cut(arg, ","); ok && strings.HasPrefix(arg, "id_") {
			add(object)
			break
		}
		for _, part := range strings.Split(arg, ",") {
			_, value, _ := strings.Cut(part, "=")
			if !strings.Contains(value, "=") && !strings.HasPrefix(value, "id_") {
				add(value)
			}
		}
	}
	return out
}

// chValues parses values: commas within quotes and brackets do not end one, and spaces
// around one are removed.
func chValues(arg string) []string {
	var out []string
	depth, quoted, start := 0, false, 0
	end := func(i int) {
		_, value, _ := strings.Cut(arg[start:i], "=")
		out = append(out, strings.Trim(strings.TrimSpace(value), `"`))
		start = i + 1
	}
	for i, c := range arg {
		switch {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ',' && depth == 0:
			end(i)
		}
	}
	if quoted || depth != 0 {
		return nil // refused as a whole
	}
	end(len(arg))
	return out
}

// TestNoValueIsCutByAHypervisorsGrammar sets each option that is free text and becomes part
// of a hypervisor's option to odd strings: the spec is refused, or the hypervisor reads
// exactly that string.
func TestNoValueIsCutByAHypervisorsGrammar(t *testing.T) {
	odd := []string{
		"a,b", "a=b", "a:b", "a b", " a", "a ", "-a", "--a", "a'b", `a"b`, `"a"`, "a[b", "a]b", "[a]", "a;b", "a@{b}", "a@b", "@{b", "%n", "a%b", "$HOME", "`a`", `a\b`, `a\x2cb`,
		"scsi:a", "json:{}", "nbd:a", "fat:a", "id_0", "id_a", "file", "path", "ro", "ro=true", "a,,b", ",", "=", "é", "a#b", "a|b", "{a}", "on", "0", "0x1",
	}
	options := map[string]func(text string) string{
		"volumes[0].image":  func(x string) string { return `"volumes":[{"image":` + x + `,"size":1}]` },
		"volumes[0].serial": func(x string) string { return `"volumes":[{"image":"i","size":1,"serial":` + x + `}]` },
		"shares[0].source":  func(x string) string { return `"shares":[{"tag":"t","source":` + x + `}]` },
		"shares[0].tag": func(x string) string {
			return `"shares":[{"source":"/s","proto":"virtiofs","socket":"s","tag":` + x + `}]`
		},
		"shares[0].socket": func(x string) string {
			return `"shares":[{"tag":"t","source":"/s","proto":"virtiofs","socket":` + x + `}]`
		},
		"socket":            func(x string) string { return `"socket":` + x },
		"interfaces[0].id":  func(x string) string { return `"interfaces":[{"type":"tap","mac":"02:00:00:00:00:01","id":` + x + `}]` },
		"graphics.socket":   func(x string) string { return `"graphics":{"enable":true,"socket":` + x + `}` },
		"kernel":            func(x string) string { return `"kernel":` + path(x) },
		"initrdPath":        func(x string) string { return `"initrdPath":` + path(x) },
		"storeDisk":         func(x string) string { return `"storeDisk":` + path(x) },
		"credentialFiles.c": func(x string) string { return `"credentialFiles":{"c":` + path(x) + `}` },
		"crosvm.pivotRoot":  func(x string) string { return `"crosvm":{"pivotRoot":` + path(x) + `}` },
		"qemu.extraArgs":    func(x string) string { return `"qemu":{"extraArgs":[` + x + `]}` },
		"crosvm.extraArgs":  func(x string) string { return `"crosvm":{"extraArgs":[` + x + `]}` },
	}
	absolute := []string{"kernel", "initrdPath", "storeDisk", "credentialFiles.c", "crosvm.pivotRoot"}
	// onlyOf lists the hypervisors that read an option; QEMU, with its own display, does
	// not use the socket of graphics.
	onlyOf := map[string][]string{
		"qemu.extraArgs": {"qemu"}, "crosvm.extraArgs": {"crosvm"}, "crosvm.pivotRoot": {"crosvm"}, "credentialFiles.c": {"qemu"},
		"graphics.socket": {"cloud-hypervisor", "crosvm"}, "shares[0].source": {"qemu", "crosvm", "kvmtool"},
		// With crosvm, virtiofsd gets the tag.
		"shares[0].tag": {"qemu", "cloud-hypervisor", "stratovirt", "alioth"},
		"socket":        {"qemu", "cloud-hypervisor", "firecracker", "crosvm", "stratovirt"},
	}
	tried, accepted := 0, 0
	for hypervisor := range backends {
		for option, members := range options {
			if only := onlyOf[option]; only != nil && !slices.Contains(only, hypervisor) {
				continue
			}
			for _, text := range odd {
				word, err := json.Marshal(text)
				if err != nil {
					t.Fatal(err)
				}
				document := fmt.Sprintf(`{"name":"web","arch":"x86_64","hypervisor":%q,%s}`, hypervisor, members(string(word)))
				if option != "kernel" {
					document = strings.Replace(document, "{", `{"kernel":"/k",`, 1)
				}
				if option != "initrdPath" {
					document = strings.Replace(document, "{", `{"initrdPath":"/i",`, 1)
				}
				s, err := spec.Parse([]byte(document))
				if err != nil {
					continue // no hypervisor has it
				}
				tried++
				p, err := new(Builder).Compile(s)
				if err != nil {
					continue
				}
				accepted++
				want := text
				if slices.Contains(absolute, option) {
					want = "/" + text
				}
				if !slices.Contains(carried(t, p), want) {
					t.Errorf("%s: %s %q is accepted, and not among the values in %q", hypervisor, option, text, p.Argv)
				}
			}
		}
	}
	if tried < 1500 || accepted < 1000 {
		t.Errorf("only %d texts were tried, and %d accepted", tried, accepted)
	}
}

// path returns a quoted string as an absolute path.
func path(quoted string) string { return `"/` + quoted[1:] }

// TestQEMUTakesNoIDThatItDoesNotKnow: ids that QEMU refuses are refused, and no others.
func TestQEMUTakesNoIDThatItDoesNotKnow(t *testing.T) {
	for id, ok := range map[string]bool{"port0": true, "a.b-c_d": true, "0port": false, "a+b": false, "-a": false, "_a": false} {
		got := faultsOf(t, "qemu", `"qemu":{"machine":"q35","pcieRootPorts":[{"id":"`+id+`"}]}`)
		if (got == nil) != ok {
			t.Errorf("root port %q: refused %v", id, got)
		}
		got = faultsOf(t, "qemu", `"qemu":{"machine":"q35"},"devices":[{"bus":"pci","path":"0000:01:00.0","qemu":{"id":"`+id+`"}}]`)
		if (got == nil) != ok {
			t.Errorf("device %q: refused %v", id, got)
		}
	}
}

// TestOptionsOfOnesOwnLeaveMicrovmItsBuses: machineOpts keep the buses that devices need.
func TestOptionsOfOnesOwnLeaveMicrovmItsBuses(t *testing.T) {
	for members, refused := range map[string]bool{
		`"qemu":{"machineOpts":{}},` + nine:                             true,
		`"qemu":{"machineOpts":{"pcie":"on"}},` + nine:                  false,
		`"qemu":{"machineOpts":{}}`:                                     false,
		`"qemu":{"machineOpts":{"acpi":"off"}},` + volumes(9):           true,
		`"qemu":{"machineOpts":{"acpi":"off"}},` + volumes(6):           false,
		`"qemu":{"machineOpts":{"acpi":"on"}},` + volumes(9):            false,
		`"qemu":{"machineOpts":{"acpi":"off","usb":"on"}},` + usb:       true,
		`"qemu":{"machineOpts":{"acpi":"off","pcie":"on"}},` + nine:     true,
		`"qemu":{"machineOpts":{}},` + usb:                              true,
		`"qemu":{"machineOpts":{"usb":"on"}},` + usb:                    false,
		`"qemu":{"machine":"q35","machineOpts":{}},` + nine + "," + usb: false,
	} {
		if got := faultsOf(t, "qemu", members); slices.Contains(got, "qemu.machineOpts") != refused {
			t.Errorf("%s: refused %v", members, got)
		}
	}
}

// TestManyCredentialsHaveRoom, and the reserved one is refused.
func TestManyCredentialsHaveRoom(t *testing.T) {
	credentials := func(n int) string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf(`"c%d":"/c"`, i))
		}
		return `"credentialFiles":{` + strings.Join(out, ",") + `}`
	}
	for _, c := range []struct{ members, want string }{
		{credentials(10), ""},
		{credentials(11), "fw_cfg_io.x-file-slots=43"},
		{`"arch":"aarch64",` + credentials(60), "fw_cfg_mem.x-file-slots=92"},
	} {
		p, err := compileFor(t, "qemu", c.members)
		if err != nil {
			t.Fatal(err)
		}
		i, got := slices.Index(p.Argv, "-global"), ""
		if i >= 0 {
			got = p.Argv[i+1]
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.members, got, c.want)
		}
	}
	notify := `"credentialFiles":{"vmm.notify_socket":"/n"}`
	for members, refused := range map[string]bool{notify: false, notify + `,"vsock":{"cid":3}`: true, notify + `,"vsock":{"cid":3},"readiness":"vmm"`: false} {
		if got := faultsOf(t, "qemu", members); (got != nil) != refused {
			t.Errorf("%s: refused %v", members, got)
		}
	}
}
