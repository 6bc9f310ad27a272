package hypervisor

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

// parseWithRules parses a document as the command does, from a file.
func parseWithRules(t *testing.T, file, document string) (*spec.Spec, error) {
	t.Helper()
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	return spec.ParseFile(file, "", Rules)
}

// TestAHypervisorsRulesComeWithTheSpecsOwn: each document has a fault of form, one
// of content, one of the table of capabilities and one of the hypervisor's own.
func TestAHypervisorsRulesComeWithTheSpecsOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "spec.json")
	for hypervisor, c := range map[string]struct{ more, want string }{
		"alioth":           {`"socket":"a.sock","cpu":"max"`, "socket"},
		"cloud-hypervisor": {`"socket":null,"balloon":true,"cpu":"max"`, "balloon"},
		"crosvm":           {`"crosvm":{"pivotRoot":"here"},"cpu":"max"`, "crosvm.pivotRoot"},
		"firecracker":      {`"firecracker":{"jailer":true},"initrdPath":"/proc/1/mem","cpu":"max"`, "initrdPath"},
		"kvmtool":          {`"shares":[{"tag":"a","source":"/a","securityModel":"mapped"}],"cpu":"max"`, "shares[0].securityModel"},
		"qemu":             {`"hotplugMem":513,"storeOnDisk":false,"volumes":[{"image":"a","autoCreate":false,"imageType":"vhdx"}]`, "hotplugMem"},
		"stratovirt":       {`"mem":100,"cpu":"max"`, "mem"},
	} {
		_, err := parseWithRules(t, file, fmt.Sprintf(`{"name":"web","arch":"x86_64","kernel":"/k","vcpus":1,"vsock":{"cid":1},"readiness":"vmm","hypervisor":%q,%s}`, hypervisor, c.more))
		if err == nil {
			t.Errorf("%s: accepted", hypervisor)
			continue
		}
		for _, path := range []string{"vcpus", "vsock.cid", c.want} {
			if !strings.Contains(err.Error(), "\n"+path+": ") {
				t.Errorf("%s: nothing about %s in\n%v", hypervisor, path, err)
			}
		}
	}
}

// TestNoSpecIsTooBadForTheRules replaces each value of a spec that uses everything by bad
// ones, for each hypervisor. No spec may cause a panic, and each is accepted or refused with
// a message.
func TestNoSpecIsTooBadForTheRules(t *testing.T) {
	const everything = `{"name":"web","arch":"x86_64","kernel":"/k","initrdPath":"/i","storeOnDisk":true,"storeDisk":"/s","cpu":"max","vcpu":2,"mem":512,
		"hotplugMem":64,"hotpluggedMem":32,"balloon":true,"initialBalloonMem":64,"socket":"web.sock","readiness":"guest","vsock":{"cid":3,"ssh":{"shutdown":true}},
		"graphics":{"enable":true,"backend":"gtk"},"credentialFiles":{"a":"/a"},"kernelParams":["a"],"machineId":"2f8c2b43-34b0-4bbf-8a5e-7b2c5d2d9c11","extraArgsScript":"/e",
		"interfaces":[{"type":"user","id":"a","mac":"02:00:00:00:00:01"},{"type":"tap","id":"b","mac":"02:00:00:00:00:02","tap":{"vhost":true}},
			{"type":"macvtap","id":"c","mac":"02:00:00:00:00:03","macvtap":{"link":"eth0","mode":"bridge"}},{"type":"bridge","id":"d","mac":"02:00:00:00:00:04","bridge":"br0"}],
		"forwardPorts":[{"from":"host","host":{"address":"127.0.0.1","port":1},"guest":{"port":1}}],
		"shares":[{"tag":"a","source":"/a","readOnly":true,"securityModel":"mapped"},{"tag":"b","source":"/b","socket":"b.sock","proto":"virtiofs","cache":"auto"}],
		"volumes":[{"image":"a","size":1,"serial":"a","direct":true,"label":"a"},{"image":"b","autoCreate":false,"imageType":"qcow2"}],
		"devices":[{"bus":"pci","path":"0000:01:00.0","qemu":{"id":"a","bus":"b"}},{"bus":"usb","path":"vendorid=1"}],
		"virtiofsd":{"threadPoolSize":"` + "`nproc`" + `","group":"kvm","extraArgs":["a"]},
		"qemu":{"machine":"q35","pcieRootPorts":[{"id":"b"}],"extraArgs":["a"],"serialConsole":true},
		"cloud-hypervisor":{"extraArgs":["--cpus","nested=on","--vsock","socket=a"],"platformOEMStrings":["a"]},
		"crosvm":{"pivotRoot":"/empty","extraArgs":["a"]},"firecracker":{"jailer":true,"cpu":{"a":1},"extraConfig":{"a":{"b":"/c"}},"extraArgs":["a"]}}`
	bad := []any{nil, -1, 0, 1 << 40, "", "x,y", "${x}", true, []any{}, []any{nil}, []any{"--vsock", "cid=x"}, map[string]any{}}
	file, count := filepath.Join(t.TempDir(), "spec.json"), 0
	var visit func(v any, document func() string, set func(any))
	try := func(document string) {
		count++
		s, err := parseWithRules(t, file, document)
		if err == nil {
			_, err = (&Builder{}).Compile(s)
		}
		if err != nil && err.Error() == "" {
			t.Errorf("refused without a message:\n%s", document)
		}
	}
	visit = func(v any, document func() string, set func(any)) {
		for _, b := range bad {
			set(b)
			try(document())
		}
		set(v)
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				visit(value, document, func(b any) { v[key] = b })
				delete(v, key)
				try(document())
				v[key] = value
			}
		case []any:
			for i, value := range v {
				visit(value, document, func(b any) { v[i] = b })
			}
		}
	}
	for hypervisor := range backends {
		var doc map[string]any
		if err := json.Unmarshal([]byte(everything), &doc); err != nil {
			t.Fatal(err)
		}
		doc["hypervisor"] = hypervisor
		document := func() string {
			data, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		for _, key := range slices.Sorted(maps.Keys(doc)) {
			if key != "hypervisor" {
				visit(doc[key], document, func(b any) { doc[key] = b })
			}
		}
	}
	if count < 1000 {
		t.Errorf("only %d documents were tried", count)
	}
}
