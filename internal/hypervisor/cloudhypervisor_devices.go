package hypervisor

import (
	"fmt"
	"strings"
)

// gpu adds a GPU. The releases of Cloud Hypervisor do not have the option and refuse it
// at the start.
func (a *chArgs) gpu() {
	if !a.s.Graphics.Enable {
		return
	}
	a.p.BeforeStart = joinLines(a.p.BeforeStart, gpuDevice(a.s, programOf(a.s.Graphics.CrosvmPackage, "crosvm", "crosvm")))
	a.p.StaleSockets = append(a.p.StaleSockets, a.s.Graphics.Socket)
	a.p.Notes = append(a.p.Notes, "graphics need a build of Cloud Hypervisor with --gpu, and crosvm for the device")
	a.add("--gpu", "socket="+Literal(a.s.Graphics.Socket))
}

func (a *chArgs) disks() {
	if !a.locks {
		keepLocks(a.p)
	}
	if !a.imageType {
		probes(a.p)
	}
	var out []string
	queues := ""
	if a.s.VCPU > 1 {
		queues = fmt.Sprintf(",num_queues=%d", a.s.VCPU)
	}
	add := func(path string, readOnly, direct bool, imageType string) {
		disk := "path=" + Literal(path) + ",readonly=" + onOff(readOnly) + ",direct=" + onOff(direct)
		if a.imageType {
			disk += ",image_type=" + imageType
		}
		out = append(out, disk+queues)
	}
	if *a.s.StoreOnDisk {
		add(a.s.StoreDisk, true, false, "raw")
	}
	for _, v := range a.s.Volumes {
		add(v.Image, v.ReadOnly, v.Direct, v.ImageType)
		if v.Serial != nil {
			out[len(out)-1] += ",serial=" + Literal(*v.Serial)
		}
	}
	a.addAll("--disk", out)
}

func (a *chArgs) shares() {
	var out []string
	for _, share := range a.s.Shares {
		out = append(out, "tag="+share.Tag+",socket="+Literal(*share.Socket.Value))
	}
	a.addAll("--fs", out)
}

func (a *chArgs) interfaces() {
	var out []string
	for _, n := range a.s.Interfaces {
		net := "tap=" + Literal(n.ID)
		if n.Type == "macvtap" {
			fds := make([]string, queueCount(a.s))
			for queue := range fds {
				fds[queue] = MacvtapFD(n.ID, queue)
			}
			net = "fd=[" + strings.Join(fds, ",") + "]"
		}
		net += ",mac=" + n.MAC
		if a.s.VCPU > 1 {
			net += fmt.Sprintf(",num_queues=%d", 2*queueCount(a.s))
		}
		out = append(out, net)
	}
	a.addAll("--net", out)
}

func (a *chArgs) devices() {
	var out []string
	for _, d := range a.s.Devices {
		out = append(out, "path=/sys/bus/pci/devices/"+d.Path)
	}
	a.addAll("--device", out)
}
