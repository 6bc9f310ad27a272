package hypervisor

import (
	"regexp"
	"strconv"
)

// HostPort is a port of the host on which the hypervisor listens.
type HostPort struct {
	// Proto is tcp or udp. Address is empty where it is all of them.
	Proto, Address string
	Port           int
}

// hostForward is QEMU's hostfwd=PROTO:ADDRESS:PORT-….
var hostForward = regexp.MustCompile(`,hostfwd=(tcp|udp):([^,:-]*):([0-9]+)-`)

// HostPorts are the ports of the host that the plan forwards to the guest.
func (p *Plan) HostPorts() []HostPort {
	var out []HostPort
	for _, arg := range p.Argv {
		for _, m := range hostForward.FindAllStringSubmatch(arg, -1) {
			port, err := strconv.Atoi(m[3])
			if err == nil {
				out = append(out, HostPort{Proto: m[1], Address: m[2], Port: port})
			}
		}
	}
	return out
}
