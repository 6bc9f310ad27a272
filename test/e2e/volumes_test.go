package e2e

import (
	"strings"
	"testing"
	"time"
)

// onImage is a VM with one volume elsewhere.
func onImage(name, image string, size int) map[string]any {
	return spec(name, func(s map[string]any) {
		// A helper, and with it root's record.
		s["interfaces"] = []any{tap("vm-"+name, 1)}
		s["volumes"] = []any{map[string]any{"image": image, "size": size, "label": "data"}}
		s["kernelParams"] = []string{"mvguest.mount=data:/data:ext4"}
	})
}

// TestASecondVMLeavesTheImageOfTheFirstAlone is the fault that was found: the
// second declares it larger.
func TestASecondVMLeavesTheImageOfTheFirstAlone(t *testing.T) {
	in(t, "container")
	sh(t, "mkdir -p /srv/two && chown microvm:kvm /srv/two")
	t.Cleanup(func() { _, _ = try("rm -rf /srv/two") })
	first := install(t, onImage("holds", "/srv/two/data.img", 64))
	second := install(t, onImage("wants", "/srv/two/data.img", 256))
	sh(t, "systemctl start microvm@"+first)
	waitFor(t, first, "test guest is up")
	pid := sh(t, "systemctl show -P MainPID microvm@"+first)
	size := sh(t, "stat -c %s /srv/two/data.img")
	// What the guest has written last is its own; what the file system is like is
	// in its first block.
	head := "dd if=/srv/two/data.img bs=1k skip=1 count=1 status=none | dd bs=1 skip=0 count=8 status=none | sha256sum"
	before := sh(t, head)
	if out, err := try("microvm start " + second); err == nil || !strings.Contains(out, "/srv/two/data.img is in use by VM "+first) {
		t.Errorf("%v: %s", err, out)
	}
	if got := sh(t, "stat -c %s /srv/two/data.img"); got != size {
		t.Errorf("the image has %s bytes, and had %s", got, size)
	}
	if got := sh(t, head); got != before {
		t.Error("the file system was changed")
	}
	if got := sh(t, "systemctl show -P MainPID microvm@"+first); got != pid {
		t.Error("the first VM is another")
	}
	for _, name := range []string{first, second} {
		out, err := try("microvm doctor " + name)
		if err == nil || !strings.Contains(out, "also uses image /srv/two/data.img") {
			t.Errorf("doctor %s: %v, %s", name, err, out)
		}
	}
	if out, err := try("microvm doctor"); err == nil || !strings.Contains(out, "VM "+first+" and VM "+second+" both use image /srv/two/data.img") {
		t.Errorf("doctor: %v, %s", err, out)
	}
	// When the first is down it is the second's, and grows.
	sh(t, "systemctl stop microvm@"+second+" && systemctl stop microvm@"+first+" && systemctl start microvm@"+second)
	waitFor(t, second, "found marker on /data")
	if got := sh(t, "stat -c %s /srv/two/data.img"); got != "268435456" {
		t.Errorf("the image has %s bytes", got)
	}
}

// TestNoImageIsMadeBelowADiskThatIsNotMounted: one of fstab, and one that only
// root's record knows.
func TestNoImageIsMadeBelowADiskThatIsNotMounted(t *testing.T) {
	in(t, "container")
	const where = "/srv/unmounted"
	sh(t, "mkdir -p "+where+" && chown microvm:kvm "+where+" && cp /etc/fstab /etc/fstab.test 2>/dev/null || touch /etc/fstab /etc/fstab.test")
	t.Cleanup(func() { _, _ = try("mv /etc/fstab.test /etc/fstab; umount " + where + "; rm -rf " + where) })
	name := install(t, onImage("late", where+"/data.img", 64))
	sh(t, "echo 'tmpfs "+where+" tmpfs noauto 0 0' >> /etc/fstab")
	out, err := try("microvm start " + name)
	if err == nil || !strings.Contains(out, where+" of /etc/fstab is not mounted") || !strings.Contains(out, "mount "+where) {
		t.Errorf("%v: %s", err, out)
	}
	if got := sh(t, "ls -A "+where); got != "" {
		t.Errorf("there is %s", got)
	}
	// The unit tries again: no more is to be done than to mount it.
	sh(t, "mount -t tmpfs tmpfs "+where+" && chown microvm:kvm "+where)
	waitFor(t, name, "test guest is up")
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	// Nothing declares it any more, as with a disk of ZFS or LUKS.
	sh(t, "cp /etc/fstab.test /etc/fstab && umount "+where)
	out, err = try("microvm start " + name)
	if err == nil || !strings.Contains(out, where+" is on ") || !strings.Contains(out, "but the VM's images were on tmpfs") {
		t.Errorf("%v: %s", err, out)
	}
	if got := sh(t, "ls -A "+where); got != "" {
		t.Errorf("there is %s", got)
	}
	if out, err := try("microvm doctor " + name); err == nil || !strings.Contains(out, "but the VM's images were on tmpfs") {
		t.Errorf("doctor: %v: %s", err, out)
	}
	// What the message says.
	sh(t, "rm /var/lib/microvms/.origin/"+name+"/volumes")
	eventually(t, 60*time.Second, "test -s "+where+"/data.img")
}

// TestADeletedImageIsMadeAnew where it was.
func TestADeletedImageIsMadeAnew(t *testing.T) {
	in(t, "container")
	name := install(t, onImage("fresh", "data.img", 64))
	sh(t, "systemctl start microvm@"+name)
	waitFor(t, name, "test guest is up")
	sh(t, "systemctl stop microvm@"+name)
	nothingLeft(t, name)
	if got := sh(t, "cat /var/lib/microvms/.origin/"+name+"/volumes"); !strings.Contains(got, "/var/lib/microvms/"+name) {
		t.Errorf("root's record has %s", got)
	}
	sh(t, "rm /var/lib/microvms/"+name+"/data.img && systemctl start microvm@"+name)
	sh(t, "test -e /var/lib/microvms/"+name+"/data.img")
}
