package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

func (v *validator) interfaces() {
	ids, macs := newUnique(v), newUnique(v)
	for i, n := range v.spec.Interfaces {
		at := fmt.Sprintf("interfaces[%d]", i)
		v.enum("interfaces[].type", n.Type, i)
		v.interfaceID(at+".id", n)
		v.check(at+".mac", ValidateMAC(n.MAC))
		ids.add(at+".id", n.ID)
		macs.add(at+".mac", strings.ToLower(n.MAC))
		v.bridge(at, n)
		v.macvtap(at, i, n)
		if n.Tap.Vhost && n.Type != "tap" {
			v.faults.Addf(at+".tap.vhost", "requires type tap, not %s", n.Type)
		}
	}
}

// interfaceID checks an interface's id, which for a tap or macvtap is its name on the
// host. The host always has lo.
func (v *validator) interfaceID(at string, n Interface) {
	switch {
	case n.Type != "tap" && n.Type != "macvtap":
		v.check(at, ValidateInterfaceLabel(n.ID))
	case n.ID == "lo":
		v.faults.Addf(at, "invalid interface name %q: it is the host's loopback interface", n.ID).
			Hintf("choose another name, such as \"vm-web\"")
	case n.Type == "macvtap" && strings.Contains(n.ID, "}"):
		// The plan has the id in a placeholder, which ends with this character.
		v.faults.Addf(at, "invalid macvtap name %q: must not contain \"}\"", n.ID).Hintf(plainLetters)
	default:
		v.check(at, ValidateInterfaceName(n.ID))
	}
}

func (v *validator) bridge(at string, n Interface) {
	switch {
	case n.Type == "bridge" && n.Bridge == nil:
		v.faults.Addf(at+".bridge", "is required for type bridge").Hintf("set the name of the bridge to join")
	case n.Type == "bridge":
		v.check(at+".bridge", ValidateInterfaceName(*n.Bridge))
	case n.Bridge != nil:
		v.faults.Addf(at+".bridge", "requires type bridge, not %s", n.Type)
	}
}

func (v *validator) macvtap(at string, i int, n Interface) {
	if n.Type != "macvtap" {
		if n.Macvtap != (Macvtap{}) {
			v.faults.Addf(at+".macvtap", "requires type macvtap, not %s", n.Type)
		}
		return
	}
	if n.Macvtap.Link == "" {
		v.faults.Addf(at+".macvtap.link", "is required for type macvtap").Hintf("set the name of a host interface, such as \"eth0\"")
	} else {
		v.check(at+".macvtap.link", ValidateInterfaceName(n.Macvtap.Link))
	}
	v.enum("interfaces[].macvtap.mode", n.Macvtap.Mode, i)
}

func (v *validator) forwardPorts() {
	hasUser := slices.ContainsFunc(v.spec.Interfaces, func(n Interface) bool { return n.Type == "user" })
	if len(v.spec.ForwardPorts) > 0 && !hasUser {
		v.faults.Addf("forwardPorts", "requires an interface of type user").Hintf("add one, or remove the ports").yield()
	}
	for i, p := range v.spec.ForwardPorts {
		at := fmt.Sprintf("forwardPorts[%d]", i)
		v.enum("forwardPorts[].from", p.From, i)
		v.enum("forwardPorts[].proto", p.Proto, i)
		v.endpoint(at+".host", p.Host)
		v.endpoint(at+".guest", p.Guest)
		if p.From == "guest" && p.Proto == "udp" {
			v.faults.Addf(at+".proto", "must be tcp, as the user network forwards only tcp from the guest")
		}
		if p.From == "guest" && p.Guest.Address == "" {
			v.faults.Addf(at+".guest.address", "is required, as from is guest").
				Hintf("set the address in the guest's network that is forwarded, such as 10.0.2.10")
		}
	}
}

func (v *validator) endpoint(at string, e Endpoint) {
	if least, most := bounds("forwardPorts[].host.port"); int64(e.Port) < least || int64(e.Port) > most {
		v.faults.Addf(at+".port", "must be from %d to %d, not %d", least, most, e.Port)
	}
	if e.Address == "" {
		return
	}
	if a, err := netip.ParseAddr(e.Address); err != nil || !a.Is4() {
		v.faults.Addf(at+".address", "invalid IPv4 address %q", e.Address).
			Hintf("use one such as \"127.0.0.1\", or leave the field out for any")
	}
}

func (v *validator) volumes() {
	images := newUnique(v)
	for i, vol := range v.spec.Volumes {
		at := fmt.Sprintf("volumes[%d]", i)
		v.image(at, vol)
		images.add(at+".image", v.spec.inStateDir(vol.Image))
		v.enum("volumes[].imageType", vol.ImageType, i)
		if vol.MountPoint != nil {
			v.absolute(at+".mountPoint", *vol.MountPoint)
		}
		if vol.Serial != nil && (len(*vol.Serial) > 20 || *vol.Serial == "") {
			v.faults.Addf(at+".serial", "invalid serial number %q: must be 1 to 20 bytes, not %d", *vol.Serial, len(*vol.Serial))
		}
		v.texts(at+".mkfsExtraArgs", vol.MkfsExtraArgs)
		if vol.Shared && vol.ImageType != "raw" && !vol.ReadOnly {
			// Each hypervisor keeps the tables of such an image in its memory.
			v.faults.Addf(at+".shared", "a %s image can be written by one VM at a time", vol.ImageType).
				Hintf("convert it to raw, or set readOnly")
		}
		if *vol.AutoCreate {
			v.created(at, i, vol)
		}
	}
}

func (v *validator) image(at string, vol Volume) {
	if vol.Image == "" {
		v.faults.Addf(at+".image", "is required").Hintf("set the image's path, such as \"data.img\"")
		return
	}
	v.check(at+".image", validatePath(vol.Image))
}

func (v *validator) created(at string, i int, vol Volume) {
	v.enum("volumes[].fsType", vol.FSType, i)
	if vol.Size < 1 {
		v.faults.Addf(at+".size", "is required, as autoCreate is true").
			Hintf("set the image's size in MiB, or set autoCreate to false")
	}
	if vol.ImageType != "raw" && vol.ImageType != "" {
		v.faults.Addf(at+".autoCreate", "only raw images can be created").Hintf("set autoCreate to false, or imageType to raw")
	}
	if limit := labelLimits[vol.FSType]; vol.Label != nil && limit > 0 && len(*vol.Label) > limit {
		v.faults.Addf(at+".label", "invalid label %q: must be at most %d bytes for %s, not %d", *vol.Label, limit, vol.FSType, len(*vol.Label))
	}
	if vol.Label != nil {
		v.check(at+".label", validateText(*vol.Label))
		v.fatLabel(at+".label", vol.FSType, *vol.Label)
	}
}

// fatLabel refuses what mkfs.fat refuses: characters that a directory entry of FAT cannot
// contain.
func (v *validator) fatLabel(at, fsType, label string) {
	if i := strings.IndexAny(label, `*?.,;:/\|+=<>[]"`); fsType == "vfat" && i >= 0 {
		v.faults.Addf(at, "invalid label %q: must not contain %q for vfat", label, label[i]).
			Hintf("use letters, digits, \"-\", \"_\" and spaces")
	}
}

func (v *validator) shares() {
	tags, sockets := newUnique(v), v.sockets()
	for i, share := range v.spec.Shares {
		at := fmt.Sprintf("shares[%d]", i)
		v.enum("shares[].proto", share.Proto, i)
		v.enum("shares[].securityModel", share.SecurityModel, i)
		v.enum("shares[].cache", share.Cache, i)
		v.check(at+".tag", ValidateTag(share.Tag))
		v.tagLength(at, share)
		tags.add(at+".tag", share.Tag)
		if share.Source == "" {
			v.faults.Addf(at+".source", "is required").Hintf("set the path of the directory to share")
		} else {
			v.check(at+".source", validateDirectory(share.Source))
		}
		v.absolute(at+".mountPoint", share.MountPoint)
		v.texts(at+".extraArgs", share.ExtraArgs)
		if share.Proto == "virtiofs" {
			v.virtiofs(at, share, sockets)
		}
	}
}

// sockets returns the sockets of the VM, without those of its shares.
func (v *validator) sockets() *unique {
	s, sockets := v.spec, newUnique(v)
	if s.Socket.Value != nil {
		sockets.add("socket", *s.Socket.Value)
	}
	if s.Graphics.Enable {
		sockets.add("graphics.socket", s.Graphics.Socket)
	}
	return sockets
}

func (v *validator) tagLength(at string, share Share) {
	limit := maxNinePTag
	if share.Proto == "virtiofs" {
		limit = maxVirtiofsTag
	}
	if len(share.Tag) > limit {
		v.faults.Addf(at+".tag", "invalid tag %q: must be at most %d bytes for %s, not %d", share.Tag, limit, share.Proto, len(share.Tag))
	}
}

func (v *validator) virtiofs(at string, share Share, sockets *unique) {
	if share.Socket.Value == nil {
		v.faults.Addf(at+".socket", "must not be null, as virtiofs needs a socket").
			Hintf("set it, for example to %q, or leave it out", v.spec.Name+"-virtiofs-"+share.Tag+".sock")
		return
	}
	v.check(at+".socket", ValidateSocketPath(*share.Socket.Value, len(v.spec.Dir())))
	sockets.add(at+".socket", *share.Socket.Value)
	translates := func(arg string) bool {
		return strings.Contains(arg, "--translate-uid") || strings.Contains(arg, "--translate-gid")
	}
	if *share.PosixACL && slices.ContainsFunc(slices.Concat(v.spec.Virtiofsd.ExtraArgs, share.ExtraArgs), translates) {
		v.faults.Addf(at+".posixAcl", "conflicts with --translate-uid or --translate-gid in extraArgs").
			Hintf("set posixAcl to false")
	}
}

func (v *validator) devices() {
	paths := newUnique(v)
	for i, d := range v.spec.Devices {
		at := fmt.Sprintf("devices[%d]", i)
		v.enum("devices[].bus", d.Bus, i)
		paths.add(at+".path", d.Bus+" "+d.Path)
		if d.Bus == "pci" {
			v.check(at+".path", ValidatePCIAddress(d.Path))
			continue
		}
		if !strings.Contains(d.Path, "=") {
			v.faults.Addf(at+".path", "invalid usb-host selector %q: must be like vendorid=0xabcd,productid=0x0123", d.Path)
		}
		v.check(at+".path", validateText(d.Path))
	}
}
