package statedir

import (
	"errors"
	"os"
	"strings"
	"testing"

	"microvm/internal/hypervisor"
)

func TestAVMSeesWhatItUsesElsewhereInTheStateDirectory(t *testing.T) {
	h, vm := installed(t)
	images := h.StateDir + "/images"
	err := errors.Join(os.Mkdir(images, 0o755), os.Symlink(images+"/linked.img", vm.Dir()+"/linked.img"))
	if err != nil {
		t.Fatal(err)
	}
	plan := &hypervisor.Plan{
		Volumes: []hypervisor.Volume{
			{Image: "own.img"}, {Image: vm.Dir() + "/sub/own.img"}, {Image: images + "/web.img"}, {Image: "linked.img"},
			{Image: h.StateDir + "/flat.img"}, {Image: "/srv/far.img"}, {Image: h.StateDir + "/.store/x/y.img"},
		},
		NinePShares: []hypervisor.NinePShare{{Source: h.StateDir + "/shared"}, {Source: "d"}},
		Files:       []hypervisor.File{{Path: h.StateDir + "/kernels/vmlinuz"}},
	}
	view := func(plan *hypervisor.Plan) string {
		t.Helper()
		texts, err := vm.dropIns(plan)
		if err != nil {
			t.Fatal(err)
		}
		return texts["microvm@web.service.d/50-view.conf"]
	}
	got := view(plan)
	want := "[Service]\nBindPaths=-" + images + "\nBindPaths=-" + h.StateDir + "/flat.img\nBindPaths=-" + h.StateDir + "/shared\n" +
		"BindReadOnlyPaths=-" + h.StateDir + "/kernels/vmlinuz\n"
	if _, text, _ := strings.Cut(got, "# outside of its own directory.\n"); text != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := view(&hypervisor.Plan{Volumes: []hypervisor.Volume{{Image: "own.img"}}}); got != "" {
		t.Errorf("a VM that keeps to its own has %q", got)
	}
	// A link in the VM's directory could lead to any VM's disk.
	if got := view(&hypervisor.Plan{Volumes: []hypervisor.Volume{{Image: "linked.img"}}}); got != "" {
		t.Errorf("a link leads to %q", got)
	}
	// Elsewhere, links that only root can change are followed.
	outside, err := os.MkdirTemp("/var/lib", "microvm-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(outside) })
	if err := os.Symlink(images, outside+"/disks"); err != nil {
		t.Fatal(err)
	}
	if got := view(&hypervisor.Plan{Volumes: []hypervisor.Volume{{Image: outside + "/disks/a.img"}}}); !strings.HasSuffix(got, "BindPaths=-"+images+"\n") {
		t.Errorf("a link of the host's leads to %q", got)
	}
}
