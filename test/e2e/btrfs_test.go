package e2e

import (
	"strings"
	"testing"
)

// TestAVolumeOnBtrfsIsNotCopiedOnWrite looks at the attributes from outside: the
// image is made without checksums and copies, and holds what the guest wrote.
func TestAVolumeOnBtrfsIsNotCopiedOnWrite(t *testing.T) {
	in(t, "vm")
	sh(t, `modprobe btrfs; truncate -s 256M /var/tmp/btrfs.img; mkfs.btrfs -q -f /var/tmp/btrfs.img
		mkdir -p /srv/btrfs; mount -o loop /var/tmp/btrfs.img /srv/btrfs; chown microvm:kvm /srv/btrfs`)
	t.Cleanup(func() { _, _ = try("umount /srv/btrfs; rm -rf /srv/btrfs /var/tmp/btrfs.img") })
	name := install(t, spec("cow", func(s map[string]any) {
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4", "mvguest.write=/data/kept"}
		s["volumes"] = []any{map[string]any{"image": "/srv/btrfs/data.img", "size": 64, "label": "data"}}
	}))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "write /data/kept: (<nil>)")
	sh(t, "systemctl stop microvm@"+name)
	attributes, _, _ := strings.Cut(sh(t, "lsattr /srv/btrfs/data.img"), " ")
	if !strings.Contains(attributes, "C") {
		t.Errorf("the image's attributes are %s, without C", attributes)
	}
	if got := sh(t, "debugfs -R 'cat kept' /srv/btrfs/data.img 2>/dev/null"); got != "from the guest" {
		t.Errorf("the volume holds %q", got)
	}
	nothingLeft(t, name)
}
