package runner

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"microvm/internal/exit"
	"microvm/internal/hypervisor"
	"microvm/internal/spec"
)

// foreignPlan returns the plan of a package without runner.json, from its text files.
func (p *Package) foreignPlan() (*hypervisor.Plan, error) {
	plan := &hypervisor.Plan{
		Version:    hypervisor.PlanVersion,
		Foreign:    true,
		Argv:       []string{RunProgram},
		Shutdown:   hypervisor.Shutdown{Method: hypervisor.ShutdownNone, Why: "the package has no " + ShutdownProgram},
		Readiness:  hypervisor.Readiness{Mode: hypervisor.ReadyNone, Why: "the package has no runner.json"},
		Hypervisor: "unknown",
		System:     p.system(),
	}
	if !p.exists(RunProgram) {
		return nil, exit.WithHint(fmt.Errorf("%s is not a runner package: it has neither %s nor %s", p.path, planFile, RunProgram),
			"build one from a spec with: microvm build")
	}
	if p.exists(ShutdownProgram) {
		plan.Shutdown = hypervisor.Shutdown{Method: hypervisor.ShutdownScript, Why: "the package has its own " + ShutdownProgram}
	}
	for _, read := range []func(*hypervisor.Plan) error{p.readHypervisor, p.readTaps, p.readMacvtaps, p.readDevices, p.readShares, p.readVsock} {
		if err := read(plan); err != nil {
			return nil, err
		}
	}
	plan.Interfaces = madeByHelpers(plan)
	if err := validate(plan); err != nil {
		return nil, rebuild(fmt.Errorf("runner package %s: %w", p.path, err))
	}
	return plan, nil
}

func (p *Package) readHypervisor(plan *hypervisor.Plan) error {
	lines, err := p.lines(hypervisorFile)
	if len(lines) > 0 {
		plan.Hypervisor = lines[0]
	}
	return err
}

func (p *Package) readTaps(plan *hypervisor.Plan) error {
	flags, err := p.lines(tapFlagsFile)
	if err != nil {
		return err
	}
	ids, err := p.lines(tapFile)
	if err != nil {
		return err
	}
	words := strings.Fields(strings.Join(flags, " "))
	for _, id := range ids {
		plan.Taps = append(plan.Taps, hypervisor.Tap{
			ID:         id,
			VnetHdr:    slices.Contains(words, "vnet_hdr"),
			MultiQueue: slices.Contains(words, "multi_queue"),
		})
	}
	return nil
}

func (p *Package) readMacvtaps(plan *hypervisor.Plan) error {
	lines, err := p.lines(macvtapFile)
	for _, line := range lines {
		w := strings.Fields(line)
		if len(w) != 4 {
			return rebuild(fmt.Errorf("%s/%s: invalid line %q: must be ID MAC LINK MODE", p.path, macvtapFile, line))
		}
		plan.Macvtaps = append(plan.Macvtaps, hypervisor.Macvtap{ID: w[0], MAC: w[1], Link: w[2], Mode: w[3], Queues: 1})
	}
	return err
}

func (p *Package) readDevices(plan *hypervisor.Plan) error {
	addresses, err := p.lines(pciFile)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		plan.PCI = append(plan.PCI, hypervisor.PCI{Address: a})
	}
	plan.USB, err = p.lines(usbFile)
	return err
}

func (p *Package) readShares(plan *hypervisor.Plan) error {
	tags, err := p.list(virtiofsDir)
	if len(tags) > 0 {
		plan.Notes = append(plan.Notes, "warning: the package does not record which of its shares are read-only, so all are writable")
	}
	for _, tag := range tags {
		if err := spec.ValidateTag(tag); err != nil {
			return fmt.Errorf("%s/%s: %w", p.path, virtiofsDir, err)
		}
		// The other options are only in a program of the package, which root does not
		// run. These are microvm.nix's defaults.
		share := hypervisor.Share{
			Tag: tag, Cache: "auto", PosixACL: true, SocketGroup: "kvm",
			InodeFileHandles: "prefer", ThreadPoolNProc: true, PassTag: plan.Hypervisor == "crosvm",
		}
		for name, field := range map[string]*string{"source": &share.Source, "socket": &share.Socket} {
			lines, err := p.lines(virtiofsDir + "/" + tag + "/" + name)
			if err != nil {
				return err
			}
			if len(lines) != 1 {
				return rebuild(fmt.Errorf("%s/%s/%s/%s: must have one line, not %d", p.path, virtiofsDir, tag, name, len(lines)))
			}
			*field = lines[0]
		}
		if !slices.Contains(strings.Split(share.Socket, "/"), "..") {
			share.Socket = filepath.Clean(share.Socket) // "./fs.sock" is fs.sock
		}
		plan.Shares = append(plan.Shares, share)
	}
	return err
}

func (p *Package) readVsock(plan *hypervisor.Plan) error {
	lines, err := p.lines(vsockFile)
	if err != nil || len(lines) == 0 {
		return err
	}
	cid, err := strconv.ParseInt(lines[0], 10, 64)
	if err != nil {
		return rebuild(fmt.Errorf("%s/%s: invalid CID %q: must be a number", p.path, vsockFile, lines[0]))
	}
	plan.VsockCID = &cid
	return nil
}
