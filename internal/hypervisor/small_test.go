package hypervisor

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"microvm/internal/exit"
	"microvm/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files")

// compileFor compiles a document for a hypervisor, on x86_64 and with an initrd unless the
// members have other values.
func compileFor(t *testing.T, hypervisor, members string) (*Plan, error) {
	t.Helper()
	arch := `"arch":"x86_64",`
	if strings.Contains(members, `"arch"`) {
		arch = ""
	}
	initrd := `,"initrdPath":"/i"`
	if strings.Contains(members, `"initrdPath"`) {
		initrd = ""
	}
	if members != "" {
		members = "," + members
	}
	s, err := spec.Parse([]byte(`{"name":"web","hypervisor":"` + hypervisor + `",` + arch + `"kernel":"/k"` + initrd + members + `}`))
	if err != nil {
		t.Fatalf("%s: %v", members, err)
	}
	return new(Builder).Compile(s)
}

// volumes, virtiofs and interfaces return members with n of them.
func volumes(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`{"image":"%d.img","size":1}`, i))
	}
	return `"volumes":[` + strings.Join(out, ",") + `]`
}

func virtiofs(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`{"tag":"t%d","source":"/s","proto":"virtiofs"}`, i))
	}
	return `"shares":[` + strings.Join(out, ",") + `]`
}

func interfaces(n int, kind string) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`{"type":%q,"id":"n%d","mac":"02:00:00:00:00:%02d"}`, kind, i, i))
	}
	return `"interfaces":[` + strings.Join(out, ",") + `]`
}

// Members of a spec that not every hypervisor has.
const (
	nine        = `"shares":[{"tag":"t","source":"/s","proto":"9p"}]`
	readOnly9p  = `"shares":[{"tag":"t","source":"/s","proto":"9p","readOnly":true}]`
	passthrough = `"devices":[{"bus":"pci","path":"0000:01:00.0"}]`
	usb         = `"devices":[{"bus":"usb","path":"vendorid=1"}]`
	vhostNet    = `"interfaces":[{"type":"tap","id":"n","mac":"02:00:00:00:00:01","tap":{"vhost":true}}]`
	bridge      = `"interfaces":[{"type":"bridge","id":"n","mac":"02:00:00:00:00:01","bridge":"br0"}]`
	macvtap     = `"interfaces":[{"type":"macvtap","id":"n","mac":"02:00:00:00:00:01","macvtap":{"link":"eth0","mode":"bridge"}}]`
	forwarded   = `"interfaces":[{"type":"user","id":"n","mac":"02:00:00:00:00:01"}],"forwardPorts":[{"host":{"port":1},"guest":{"port":1}}]`
	qcow2       = `"volumes":[{"image":"a","autoCreate":false,"imageType":"qcow2"}]`
	serial      = `"volumes":[{"image":"a","size":1,"serial":"a"}]`
	direct      = `"volumes":[{"image":"a","size":1,"direct":true}]`
)

// refusal is what a hypervisor does not support: members of a spec, the path of the fault
// and a part of its message or remedy.
type refusal struct{ members, path, want string }

// refusedByTheSmall is what none of kvmtool, alioth and StratoVirt supports.
var refusedByTheSmall = map[string]refusal{
	"forwarded ports":              {forwarded, "forwardPorts", "supported by: qemu"},
	"a bridge":                     {bridge, "interfaces[0].type", "supported by: qemu"},
	"vhost-net":                    {vhostNet, "interfaces[0].tap.vhost", "supported by: qemu"},
	"a USB device":                 {usb, "devices[0].bus", "supported by: qemu"},
	"an image in qcow2":            {qcow2, "volumes[0].imageType", "supported by: cloud-hypervisor, crosvm, qemu"},
	"an emulated CPU":              {`"cpu":"max"`, "cpu", "supported by: qemu"},
	"huge pages":                   {`"hugepageMem":true`, "hugepageMem", "supported by: cloud-hypervisor, qemu"},
	"virtio-mem":                   {`"hotplugMem":64`, "hotplugMem", "supported by: cloud-hypervisor, qemu"},
	"a balloon inflated at start":  {`"balloon":true,"initialBalloonMem":64`, "initialBalloonMem", "supported by: cloud-hypervisor"},
	"graphics":                     {`"graphics":{"enable":true}`, "graphics.enable", "qemu"},
	"credentials":                  {`"credentialFiles":{"a":"/a"}`, "credentialFiles", "qemu"},
	"readiness by an absent vsock": {`"readiness":"guest"`, "readiness", "requires vsock.cid"},
}

// refusals are what each hypervisor does not support.
var refusals = map[string]map[string]refusal{
	"kvmtool": {
		"virtiofs":                     {virtiofs(1), "shares[0].proto", "supported by: alioth, cloud-hypervisor, crosvm, qemu, stratovirt"},
		"a 9p share to read only":      {readOnly9p, "shares[0].readOnly", "supported by: qemu"},
		"9p with owners mapped":        {strings.Replace(nine, `"9p"`, `"9p","securityModel":"mapped"`, 1), "shares[0].securityModel", "set hypervisor to qemu"},
		"a volume's serial":            {serial, "volumes[0].serial", "qemu"},
		"five disks":                   {volumes(5), "volumes", "supports 4, and the spec has 5"},
		"four beside the store":        {volumes(4) + `,"storeDisk":"/store.img"`, "volumes", "the spec has 5 with the store's"},
		"two user networks":            {interfaces(2, "user"), "interfaces[1].type", "supports only one user network"},
		"a comma in an image":          {`"volumes":[{"image":"a,b","size":1}]`, "volumes[0].image", "comma"},
		"a comma in a share":           {strings.Replace(nine, `"/s"`, `"/s,t"`, 1), "shares[0].source", "comma"},
		"a comma in the store":         {`"storeDisk":"/a,b"`, "storeDisk", "comma"},
		"a socket elsewhere":           {`"socket":"control.sock"`, "socket", "leave the field out"},
		"a balloon that cannot be set": {`"balloon":true,"socket":null`, "balloon", "leave socket out"},
		"a socket that is off":         {`"readiness":"vmm","socket":null`, "readiness", "leave socket out"},
		"a long kernel line":           {`"kernelParams":["` + strings.Repeat("x", 2000) + `"]`, "kernelParams", "at most 2047"},
		"a long one on aarch64":        {`"arch":"aarch64","kernelParams":["` + strings.Repeat("x", 2040) + `"]`, "kernelParams", "at most 2047"},
		"five disks and a long one":    {volumes(5) + `,"kernelParams":["` + strings.Repeat("x", 2000) + `"]`, "volumes", "kvmtool supports 4"},
	},
	"alioth": {
		"9p":                           {nine, "shares[0].proto", "supported by: crosvm, kvmtool, qemu"},
		"passthrough":                  {passthrough, "devices[0].bus", "supported by: cloud-hypervisor, crosvm, kvmtool, qemu"},
		"a user network":               {interfaces(1, "user"), "interfaces[0].type", "supported by: kvmtool, qemu"},
		"macvtap":                      {macvtap, "interfaces[0].type", "supported by: cloud-hypervisor, crosvm, kvmtool, qemu, stratovirt"},
		"a volume's serial":            {serial, "volumes[0].serial", "qemu, stratovirt"},
		"a volume without the cache":   {direct, "volumes[0].direct", "supported by: cloud-hypervisor, crosvm, kvmtool, qemu, stratovirt"},
		"a socket":                     {`"socket":"control.sock"`, "socket", "alioth has no control socket"},
		"readiness by a socket it has": {`"readiness":"vmm"`, "readiness", "control socket"},
	},
	"stratovirt": {
		"9p":                          {nine, "shares[0].proto", "supported by: crosvm, kvmtool, qemu"},
		"passthrough":                 {passthrough, "devices[0].bus", "supported by: cloud-hypervisor, crosvm, kvmtool, qemu"},
		"a user network":              {interfaces(1, "user"), "interfaces[0].type", "supported by: kvmtool, qemu"},
		"a balloon":                   {`"balloon":true`, "balloon", "supported by: alioth, cloud-hypervisor, crosvm, firecracker, kvmtool, qemu"},
		"no control socket":           {`"socket":null`, "socket", "leave the field out"},
		"little memory":               {`"mem":127`, "mem", "must be from 128 to 524288 MiB"},
		"much memory":                 {`"mem":524289`, "mem", "must be from 128 to 524288 MiB"},
		"many CPUs":                   {`"vcpu":255`, "vcpu", "must be at most 254"},
		"five disks":                  {volumes(5), "volumes", "supports 4 disks"},
		"three interfaces":            {interfaces(3, "tap"), "interfaces", "supports 2 interfaces"},
		"six shares":                  {virtiofs(6), "shares", "supports 5 shares"},
		"five shares beside a vsock":  {virtiofs(5) + `,"vsock":{"cid":3}`, "shares", "supports 5 shares"},
		"thirty-two devices on virt":  {`"arch":"aarch64",` + volumes(32), "volumes", "machine virt supports 31"},
		"nothing to boot from":        {`"initrdPath":""`, "initrdPath", "StratoVirt needs an initrd or a disk"},
		"a comma in a volume's image": {`"volumes":[{"image":"a,b","size":1}]`, "volumes[0].image", "comma"},
	},
	"cloud-hypervisor": {
		"9p":                           {nine, "shares[0].proto", "supported by: crosvm, kvmtool, qemu"},
		"a user network":               {interfaces(1, "user"), "interfaces[0].type", "supported by: kvmtool, qemu"},
		"a bridge":                     {bridge, "interfaces[0].type", "supported by: qemu"},
		"vhost-net":                    {vhostNet, "interfaces[0].tap.vhost", "supported by: qemu"},
		"forwarded ports":              {forwarded, "forwardPorts", "supported by: qemu"},
		"a USB device":                 {usb, "devices[0].bus", "supported by: qemu"},
		"an emulated CPU":              {`"cpu":"max"`, "cpu", "supported by: qemu"},
		"credentials":                  {`"credentialFiles":{"a":"/a"}`, "credentialFiles", "supported by: qemu"},
		"a balloon that cannot be set": {`"balloon":true,"socket":null`, "balloon", "leave socket out"},
		"CPUs twice":                   {`"cloud-hypervisor":{"extraArgs":["--cpus","boot=2"]}`, "cloud-hypervisor.extraArgs", "option vcpu"},
		"OEM strings twice":            {`"cloud-hypervisor":{"extraArgs":["--platform=oem_strings=[a]"]}`, "cloud-hypervisor.extraArgs", "platformOEMStrings"},
		"a CID twice":                  {`"vsock":{"cid":3},"cloud-hypervisor":{"extraArgs":["--vsock","cid=4"]}`, "cloud-hypervisor.extraArgs", "vsock.cid is 3"},
		"a CID that is none":           {`"cloud-hypervisor":{"extraArgs":["--vsock","cid=x"]}`, "cloud-hypervisor.extraArgs", "is not a number"},
		"an OEM string with a comma":   {`"cloud-hypervisor":{"platformOEMStrings":["a,b"]}`, "cloud-hypervisor.platformOEMStrings[0]", "must not contain any of , [ ]"},
		"a comma in a volume":          {`"volumes":[{"image":"a,b","size":1}]`, "volumes[0].image", "comma"},
	},
	"firecracker": {
		"9p":                           {nine, "shares[0].proto", "supported by: crosvm, kvmtool, qemu"},
		"virtiofs":                     {virtiofs(1), "shares[0].proto", "supported by: alioth, cloud-hypervisor, crosvm, qemu, stratovirt"},
		"passthrough":                  {passthrough, "devices[0].bus", "supported by: cloud-hypervisor, crosvm, kvmtool, qemu"},
		"a USB device":                 {usb, "devices[0].bus", "supported by: qemu"},
		"a user network":               {interfaces(1, "user"), "interfaces[0].type", "supported by: kvmtool, qemu"},
		"macvtap":                      {macvtap, "interfaces[0].type", "supported by: cloud-hypervisor, crosvm, kvmtool, qemu, stratovirt"},
		"a bridge":                     {bridge, "interfaces[0].type", "supported by: qemu"},
		"vhost-net":                    {vhostNet, "interfaces[0].tap.vhost", "supported by: qemu"},
		"forwarded ports":              {forwarded, "forwardPorts", "supported by: qemu"},
		"an image in qcow2":            {qcow2, "volumes[0].imageType", "supported by: cloud-hypervisor, crosvm, qemu"},
		"a volume's serial":            {serial, "volumes[0].serial", "supported by: cloud-hypervisor, crosvm, qemu, stratovirt"},
		"a volume past the cache":      {direct, "volumes[0].direct", "supported by: cloud-hypervisor, crosvm, kvmtool, qemu, stratovirt"},
		"an emulated CPU":              {`"cpu":"max"`, "cpu", "supported by: qemu"},
		"huge pages":                   {`"hugepageMem":true`, "hugepageMem", "supported by: cloud-hypervisor, qemu"},
		"virtio-mem":                   {`"hotplugMem":64`, "hotplugMem", "supported by: cloud-hypervisor, qemu"},
		"graphics":                     {`"graphics":{"enable":true}`, "graphics.enable", "supported by: cloud-hypervisor, crosvm, qemu"},
		"credentials":                  {`"credentialFiles":{"a":"/a"}`, "credentialFiles", "supported by: qemu"},
		"a balloon that cannot be set": {`"balloon":true,"socket":null`, "balloon", "leave socket out"},
	},
	"crosvm": {
		"a user network":               {interfaces(1, "user"), "interfaces[0].type", "supported by: kvmtool, qemu"},
		"a bridge":                     {bridge, "interfaces[0].type", "supported by: qemu"},
		"vhost-net":                    {vhostNet, "interfaces[0].tap.vhost", "supported by: qemu"},
		"forwarded ports":              {forwarded, "forwardPorts", "supported by: qemu"},
		"a USB device":                 {usb, "devices[0].bus", "supported by: qemu"},
		"a 9p share to read only":      {readOnly9p, "shares[0].readOnly", "supported by: qemu"},
		"an image in vhdx":             {strings.Replace(qcow2, "qcow2", "vhdx", 1), "volumes[0].imageType", "supported by: cloud-hypervisor, qemu"},
		"an emulated CPU":              {`"cpu":"max"`, "cpu", "supported by: qemu"},
		"huge pages":                   {`"hugepageMem":true`, "hugepageMem", "supported by: cloud-hypervisor, qemu"},
		"virtio-mem":                   {`"hotplugMem":64`, "hotplugMem", "supported by: cloud-hypervisor, qemu"},
		"a balloon inflated at start":  {`"balloon":true,"initialBalloonMem":64`, "initialBalloonMem", "supported by: cloud-hypervisor, firecracker"},
		"credentials":                  {`"credentialFiles":{"a":"/a"}`, "credentialFiles", "supported by: qemu"},
		"a balloon that cannot be set": {`"balloon":true,"socket":null`, "balloon", "leave socket out"},
		"a comma in a volume":          {`"volumes":[{"image":"a,b","size":1}]`, "volumes[0].image", "comma"},
		"a colon in a 9p share":        {strings.Replace(nine, `"/s"`, `"/s:t"`, 1), "shares[0].source", "set proto to virtiofs"},
		"a relative root":              {`"crosvm":{"pivotRoot":"empty"}`, "crosvm.pivotRoot", "must be absolute"},
		"9p of the state directory":    {`"crosvm":{"pivotRoot":"/e"},"shares":[{"tag":"t","source":"s","proto":"9p"}]`, "shares[0].source", "set the absolute path"},
	},
}

// TestWhatHypervisorsCannotDoIsRefused: each refusal has the option's path and
// a remedy, mostly which hypervisors can; the golden file has all texts.
func TestWhatHypervisorsCannotDoIsRefused(t *testing.T) {
	var all strings.Builder
	for _, hypervisor := range append(slices.Sorted(maps.Keys(refusals)), "qemu") {
		cases := maps.Clone(refusals[hypervisor])
		if hypervisor == "qemu" {
			cases = qemuRefusals()
		}
		if slices.Contains([]string{"alioth", "kvmtool", "stratovirt"}, hypervisor) {
			maps.Copy(cases, refusedByTheSmall)
		}
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			t.Run(hypervisor+" "+name, func(t *testing.T) {
				_, err := compileFor(t, hypervisor, cases[name].members)
				wantFault(t, err, cases[name].path, cases[name].want)
				fmt.Fprintf(&all, "%s, %s\n", hypervisor, name)
				for line := range strings.Lines(exit.Text(err)) {
					fmt.Fprintf(&all, "    %s\n", strings.TrimSpace(line))
				}
			})
		}
	}
	compareGolden(t, "testdata/refused.golden", all.String())
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with: go test ./internal/hypervisor -run Refused -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s", path, diff)
	}
}

// TestWhatOnlyQEMUsDisplayHasIsRefused for the two hypervisors with crosvm's GPU.
func TestWhatOnlyQEMUsDisplayHasIsRefused(t *testing.T) {
	for _, hypervisor := range []string{"cloud-hypervisor", "crosvm"} {
		_, err := compileFor(t, hypervisor, `"graphics":{"enable":true,"vulkan":"venus","backend":"headless"}`)
		wantFault(t, err, "graphics.vulkan", "remove it")
		wantFault(t, err, "graphics.backend", "set hypervisor to qemu")
		for _, members := range []string{`"graphics":{"enable":true}`, `"graphics":{"vulkan":"venus","backend":"headless"}`} {
			if _, err := compileFor(t, hypervisor, members); err != nil {
				t.Errorf("%s with %s: %v", hypervisor, members, err)
			}
		}
	}
}

// TestTheConsoleIsTheSerialPortThatTheMachineHas: on aarch64 a PL011 or an 8250, on x86_64
// always an 8250.
func TestTheConsoleIsTheSerialPortThatTheMachineHas(t *testing.T) {
	for hypervisor, port := range map[string]string{
		"alioth": "ttyAMA0", "cloud-hypervisor": "ttyAMA0", "crosvm": "ttyS0", "firecracker": "ttyS0", "kvmtool": "ttyS0", "qemu": "ttyAMA0", "stratovirt": "ttyAMA0",
	} {
		for arch, want := range map[string]string{"aarch64": port, "x86_64": "ttyS0"} {
			p, err := compileFor(t, hypervisor, `"arch":"`+arch+`"`)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(p.Argv, " ")
			for _, g := range p.Generated {
				text += g.Content
			}
			if !strings.Contains(text, "console="+want+" ") {
				t.Errorf("%s on %s: no console=%s in %s", hypervisor, arch, want, text)
			}
		}
	}
}

// TestWhatIsJustPossibleIsCompiled: values at the limits are accepted.
func TestWhatIsJustPossibleIsCompiled(t *testing.T) {
	for name, c := range map[string]struct{ hypervisor, members string }{
		"9p of the state directory":            {"crosvm", strings.Replace(nine, `"/s"`, `"s"`, 1)},
		"a comma that only virtiofsd sees":     {"cloud-hypervisor", strings.Replace(virtiofs(1), `"/s"`, `"/s,t"`, 1)},
		"an absolute root and source":          {"crosvm", `"crosvm":{"pivotRoot":"/e"},` + nine},
		"virtiofs beside an absolute root":     {"crosvm", `"crosvm":{"pivotRoot":"/e"},` + strings.Replace(virtiofs(1), `"/s"`, `"s"`, 1)},
		"four disks of kvmtool":                {"kvmtool", volumes(4)},
		"a user network and a tap":             {"kvmtool", `"interfaces":[{"type":"user","id":"a","mac":"02:00:00:00:00:01"},{"type":"tap","id":"b","mac":"02:00:00:00:00:02"}]`},
		"9p as it is":                          {"kvmtool", strings.Replace(nine, `"9p"`, `"9p","securityModel":"passthrough"`, 1)},
		"kvmtool without a socket":             {"kvmtool", `"socket":null`},
		"the default socket by its name":       {"alioth", `"socket":"web.sock"`},
		"alioth without a socket":              {"alioth", `"socket":null`},
		"four disks and two nets":              {"stratovirt", volumes(4) + "," + interfaces(2, "tap")},
		"four shares and a vsock":              {"stratovirt", virtiofs(4) + `,"vsock":{"cid":3}`},
		"thirty disks on virt":                 {"stratovirt", `"arch":"aarch64",` + volumes(30)},
		"a disk in place of an initrd":         {"stratovirt", `"initrdPath":"","storeDisk":"/store.img"`},
		"the most memory and CPUs":             {"stratovirt", `"mem":524288,"vcpu":254`},
		"alioth has room for many disks":       {"alioth", volumes(12)},
		"an equals sign and a comma of alioth": {"alioth", `"volumes":[{"image":"a=b,c.img","size":1}]`},
	} {
		if _, err := compileFor(t, c.hypervisor, c.members); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAliothTakesAnyValueAsAnObject(t *testing.T) {
	p, err := compileFor(t, "alioth", `"volumes":[{"image":"a.img","size":1},{"image":"b=1,2.img","size":1},{"image":"id_x","size":1},{"image":"@{,}","size":1}]`)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for i, arg := range p.Argv {
		if arg == "--blk" || arg == "--object" {
			values = append(values, p.Argv[i+1])
		}
	}
	want := []string{
		"file,path=a.img,readonly=false", "file,path=id_0,readonly=false", "file,path=id_1,readonly=false", "file,path=id_2,readonly=false",
		"id_0,b=1,2.img", "id_1,id_x", "id_2,@{{,}",
	}
	if !slices.Equal(values, want) {
		t.Errorf("got %q\nwant %q", values, want)
	}
}

// TestKvmtoolsSocketFitsIntoItsAddress: lkvm truncates a longer path.
func TestKvmtoolsSocketFitsIntoItsAddress(t *testing.T) {
	for length, want := range map[int]string{1: "", 38: "", 39: "vm", 41: "vm"} {
		name := strings.Repeat("x", length)
		if want == "" {
			want = name
		}
		s, err := spec.Parse([]byte(`{"name":"` + name + `","arch":"x86_64","hypervisor":"kvmtool","kernel":"/k"}`))
		if err != nil {
			t.Fatal(err)
		}
		p, err := new(Builder).Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		at := slices.Index(p.Argv, "--name")
		if got := p.Argv[at+1]; got != want || p.Readiness.Control.Socket != ".lkvm/"+want+".sock" {
			t.Errorf("%d bytes: the name is %q and the socket %s, want %q", length, got, p.Readiness.Control.Socket, want)
		}
		// kvm__create_socket, kvm-ipc.c, has two slashes.
		if path := "/var/lib/microvms/" + name + "/.lkvm//" + want + ".sock"; len(path) > 107 {
			t.Errorf("%s has %d bytes, too many for an address", path, len(path))
		}
	}
}

func TestStratoVirtsGeneratorIsThereWhereItSurelyIs(t *testing.T) {
	s, err := spec.Parse([]byte(`{"name":"web","arch":"x86_64","hypervisor":"stratovirt","kernel":"/k","initrdPath":"/i"}`))
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[[2]int]bool{{2, 2}: true, {2, 4}: true, {2, 5}: false, {3, 0}: false, {0, 0}: false} {
		b := &Builder{Version: func(string) (int, int, error) {
			if version == [2]int{} {
				return 0, 0, errors.New("not installed")
			}
			return version[0], version[1], nil
		}}
		p, err := b.Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(p.Argv, "virtio-rng-device,rng=rng,id=rng0"); got != want {
			t.Errorf("StratoVirt %v: a random number generator %t, want %t", version, got, want)
		}
	}
}
