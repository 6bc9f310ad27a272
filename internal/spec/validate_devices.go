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
			v.faults.Addf(at+".tap.vhost", "is for type tap, and this interface has type %s; remove it", n.Type)
		}
	}
}

// interfaceID checks the name that a tap or macvtap has on the host. lo is there
// before any of ours.
func (v *validator) interfaceID(at string, n Interface) {
	switch {
	case n.Type != "tap" && n.Type != "macvtap":
		v.check(at, ValidateInterfaceLabel(n.ID))
	case n.ID == "lo":
		v.faults.Addf(at, "%q is the host's own interface\nhint: choose another name, such as \"vm-web\"", n.ID)
	case n.Type == "macvtap" && strings.Contains(n.ID, "}"):
		// The plan has the id in a placeholder, which ends there.
		v.faults.Addf(at, "%q holds \"}\", which the name of a macvtap cannot\nhint: use letters, digits, \"-\", \"_\" and \".\"", n.ID)
	default:
		v.check(at, ValidateInterfaceName(n.ID))
	}
}

func (v *validator) bridge(at string, n Interface) {
	switch {
	case n.Type == "bridge" && n.Bridge == nil:
		v.faults.Addf(at+".bridge", "is missing; name the bridge that an interface of type bridge joins")
	case n.Type == "bridge":
		v.check(at+".bridge", ValidateInterfaceName(*n.Bridge))
	case n.Bridge != nil:
		v.faults.Addf(at+".bridge", "is for type bridge, and this interface has type %s; remove one of the two", n.Type)
	}
}

func (v *validator) macvtap(at string, i int, n Interface) {
	if n.Type != "macvtap" {
		if n.Macvtap != (Macvtap{}) {
			v.faults.Addf(at+".macvtap", "is for type macvtap, and this interface has type %s; remove one of the two", n.Type)
		}
		return
	}
	if n.Macvtap.Link == "" {
		v.faults.Addf(at+".macvtap.link", "is missing; name the host's interface to stand on, such as \"eth0\"")
	} else {
		v.check(at+".macvtap.link", ValidateInterfaceName(n.Macvtap.Link))
	}
	v.enum("interfaces[].macvtap.mode", n.Macvtap.Mode, i)
}

func (v *validator) forwardPorts() {
	hasUser := slices.ContainsFunc(v.spec.Interfaces, func(n Interface) bool { return n.Type == "user" })
	if len(v.spec.ForwardPorts) > 0 && !hasUser {
		v.faults.Addf("forwardPorts", "needs an interface of type user; add one, or remove the ports")
		v.faults.yield()
	}
	for i, p := range v.spec.ForwardPorts {
		at := fmt.Sprintf("forwardPorts[%d]", i)
		v.enum("forwardPorts[].from", p.From, i)
		v.enum("forwardPorts[].proto", p.Proto, i)
		v.endpoint(at+".host", p.Host)
		v.endpoint(at+".guest", p.Guest)
		if p.From == "guest" && p.Proto == "udp" {
			v.faults.Addf(at+".proto", "the user network forwards only tcp from the guest; write tcp")
		}
		if p.From == "guest" && p.Guest.Address == "" {
			v.faults.Addf(at+".guest.address", "is missing; give the address in the guest's network that is forwarded, such as 10.0.2.10")
		}
	}
}

func (v *validator) endpoint(at string, e Endpoint) {
	if least, most := bounds("forwardPorts[].host.port"); int64(e.Port) < least || int64(e.Port) > most {
		v.faults.Addf(at+".port", "%d is not a port; give one from %d to %d", e.Port, least, most)
	}
	if e.Address == "" {
		return
	}
	if a, err := netip.ParseAddr(e.Address); err != nil || !a.Is4() {
		v.faults.Addf(at+".address", "%q is no IPv4 address; write one such as \"127.0.0.1\", or leave it out", e.Address)
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
			v.faults.Addf(at+".serial", "%q is %d bytes; virtio-blk allows 1 to 20", *vol.Serial, len(*vol.Serial))
		}
		v.texts(at+".mkfsExtraArgs", vol.MkfsExtraArgs)
		if vol.Shared && vol.ImageType != "raw" && !vol.ReadOnly {
			// Each hypervisor keeps the tables of such an image in its memory.
			v.faults.Addf(at+".shared", "a %s image can be written by one VM at a time\nhint: convert it to raw, or set readOnly", vol.ImageType)
		}
		if *vol.AutoCreate {
			v.created(at, i, vol)
		}
	}
}

func (v *validator) image(at string, vol Volume) {
	if vol.Image == "" {
		v.faults.Addf(at+".image", "is missing; give the image's path, such as \"data.img\"")
		return
	}
	v.check(at+".image", validatePath(vol.Image))
}

func (v *validator) created(at string, i int, vol Volume) {
	v.enum("volumes[].fsType", vol.FSType, i)
	if vol.Size < 1 {
		v.faults.Addf(at+".size", "is missing; give the image's size in MiB, or set autoCreate to false")
	}
	if vol.ImageType != "raw" && vol.ImageType != "" {
		v.faults.Addf(at+".autoCreate", "makes raw images only; set it to false, or imageType to raw")
	}
	if limit := labelLimits[vol.FSType]; vol.Label != nil && limit > 0 && len(*vol.Label) > limit {
		v.faults.Addf(at+".label", "%q is %d bytes; %s allows %d", *vol.Label, len(*vol.Label), vol.FSType, limit)
	}
	if vol.Label != nil {
		v.check(at+".label", validateText(*vol.Label))
		v.fatLabel(at+".label", vol.FSType, *vol.Label)
	}
}

// fatLabel refuses what mkfs.fat does not take, which are the characters that a
// directory entry of FAT has no room for.
func (v *validator) fatLabel(at, fsType, label string) {
	if i := strings.IndexAny(label, `*?.,;:/\|+=<>[]"`); fsType == "vfat" && i >= 0 {
		v.faults.Addf(at, "%q holds %q, which no label of vfat can\nhint: use letters, digits, \"-\", \"_\" and blanks", label, label[i])
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
			v.faults.Addf(at+".source", "is missing; give the directory to share")
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

// sockets are those that the VM makes beside the ones of its shares.
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
		v.faults.Addf(at+".tag", "%q is %d bytes; %s allows %d", share.Tag, len(share.Tag), share.Proto, limit)
	}
}

func (v *validator) virtiofs(at string, share Share, sockets *unique) {
	if share.Socket.Value == nil {
		v.faults.Addf(at+".socket", "is null; a virtiofs share needs a socket, such as %q", v.spec.Name+"-virtiofs-"+share.Tag+".sock")
		return
	}
	v.check(at+".socket", ValidateSocketPath(*share.Socket.Value, len(v.spec.Dir())))
	sockets.add(at+".socket", *share.Socket.Value)
	translates := func(arg string) bool {
		return strings.Contains(arg, "--translate-uid") || strings.Contains(arg, "--translate-gid")
	}
	if *share.PosixACL && slices.ContainsFunc(slices.Concat(v.spec.Virtiofsd.ExtraArgs, share.ExtraArgs), translates) {
		v.faults.Addf(at+".posixAcl", "does not go with --translate-uid or --translate-gid in extraArgs; set posixAcl to false")
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
			v.faults.Addf(at+".path", "%q is no usb-host selector; write vendorid=0xabcd,productid=0x0123", d.Path)
		}
		v.check(at+".path", validateText(d.Path))
	}
}
