package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"microvm/internal/foreign"
	"microvm/internal/hypervisor"
	"microvm/internal/statedir"
)

// limits checks the limits of this host that the VM could exceed.
func (d *Doctor) limits(vm statedir.VM, plan *hypervisor.Plan) {
	d.reachable(vm, plan)
	d.hidden(vm, plan)
	d.ram(plan)
	d.namespaces(plan)
	d.ports(plan)
	d.ninePShares(vm, plan)
}

// reachable checks that the hypervisors' user can read the package, which includes the
// state directory, the VM's directory and the store above it.
func (d *Doctor) reachable(vm statedir.VM, plan *hypervisor.Plan) {
	account, err := d.Host.Account()
	if err != nil {
		return // already reported
	}
	file, mode := "share/microvm/runner.json", uint32(unix.R_OK)
	if plan.Foreign {
		file, mode = "bin/microvm-run", unix.X_OK
	}
	if why := accessAs(account, filepath.Join(vm.Dir(), "current", file), mode); why != "" {
		d.failed("package access", why, "make the directory searchable and the package readable for all users; below "+d.Host.StateDir+", microvm update "+vm.Name+" or install-microvm sets the modes")
		return
	}
	d.ok("package access", "readable by user %s", d.Host.User)
}

// hidden looks for files that are not visible to the VM's unit: it sees only the VM's own
// directory and the store below the state directory.
func (d *Doctor) hidden(vm statedir.VM, plan *hypervisor.Plan) {
	top, err := d.Host.RealStateDir()
	if err != nil {
		return
	}
	for _, f := range plan.Files {
		real, err := filepath.EvalSymlinks(f.Path)
		if err != nil {
			continue // already reported
		}
		rel, err := filepath.Rel(top, real)
		first, _, _ := strings.Cut(rel, "/")
		if err == nil && first != ".." && first != vm.Name && first != ".store" {
			d.failed("file "+f.Role, fmt.Sprintf("%s is below %s, where the VM's unit sees only the VM's own directory", f.Path, top), "move it elsewhere, and correct the spec")
		}
	}
}

// ram checks that the host has enough memory and CPUs.
func (d *Doctor) ram(plan *hypervisor.Plan) {
	if total := d.memTotal(); total > 0 && plan.MemMiB > total {
		d.failed("memory", fmt.Sprintf("the VM has %d MiB, this host only %d", plan.MemMiB, total), "reduce mem in the spec, then update the VM")
	}
	if cpus := runtime.NumCPU(); plan.VCPU > cpus {
		d.missing("CPUs", fmt.Sprintf("the VM has %d, this host only %d, which makes the guest slow", plan.VCPU, cpus), "reduce vcpu in the spec, then update the VM")
	}
}

// memTotal returns the host's memory in MiB, proc_meminfo(5), or 0 if it is unknown.
func (d *Doctor) memTotal() int {
	data, err := os.ReadFile(d.path("proc/meminfo"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, _ := strconv.Atoi(f[1])
			return kib / 1024
		}
	}
	return 0
}

// sysctl returns a number from /proc/sys, and whether there is one.
func (d *Doctor) sysctl(name string) (int, bool) {
	data, err := os.ReadFile(d.path("proc/sys", strings.ReplaceAll(name, ".", "/")))
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return n, err == nil
}

// namespaces checks that the VM's units can create namespaces. With a limit of 0,
// namespaces(7), they do not start, and systemd reports only USER or NAMESPACE.
func (d *Doctor) namespaces(plan *hypervisor.Plan) {
	kinds := map[string]string{"mnt": "every VM's unit (226/NAMESPACE)"}
	if !plan.Bridge {
		kinds["user"] = "PrivateUsers= of the VM's unit (217/USER)"
	}
	if len(plan.Shares) > 0 {
		kinds["pid"], kinds["net"] = "virtiofsd's sandbox", "virtiofsd's sandbox"
	}
	for _, kind := range []string{"mnt", "user", "pid", "net"} {
		name := "user.max_" + kind + "_namespaces"
		if n, ok := d.sysctl(name); ok && n == 0 && kinds[kind] != "" {
			d.failed("sysctl "+name, "is 0, but must not be for "+kinds[kind],
				fmt.Sprintf("run: sysctl %[1]s=10000, and write \"%[1]s = 10000\" to a file in /etc/sysctl.d", name))
		}
	}
}

// unprivilegedPort is the sysctl of the first port that all users may listen on, ip(7).
const unprivilegedPort = "net.ipv4.ip_unprivileged_port_start"

func (d *Doctor) ports(plan *hypervisor.Plan) {
	first, ok := d.sysctl(unprivilegedPort)
	if !ok {
		return
	}
	for _, p := range plan.HostPorts {
		if p.Port < first {
			d.failed(fmt.Sprintf("port %s/%d", p.Proto, p.Port), fmt.Sprintf("user %s may only listen on ports from %d", d.Host.User, first),
				fmt.Sprintf("forward from port %d or higher, or run: sysctl %s=%d", first, unprivilegedPort, p.Port))
		}
	}
}

// ninePShares checks the shares that the hypervisor itself serves, as its own user.
func (d *Doctor) ninePShares(vm statedir.VM, plan *hypervisor.Plan) {
	account, err := d.Host.Account()
	if err != nil {
		return
	}
	for _, s := range plan.NinePShares {
		check, path := "share "+s.Tag, s.Source
		relative := !filepath.IsAbs(path)
		if relative {
			path = filepath.Join(vm.Dir(), path)
		}
		if _, err := os.Lstat(path); relative && os.IsNotExist(err) {
			d.ok(check, "%s will be created at the first start", path)
			continue
		}
		mode := uint32(unix.R_OK | unix.X_OK)
		if !s.ReadOnly {
			mode |= unix.W_OK
		}
		why := accessAs(account, path, mode)
		info, err := os.Stat(path)
		switch {
		case err == nil && !info.IsDir():
			d.failed(check, path+" is not a directory", "correct the share's source in the spec")
		case why == "":
			d.ok(check, "%s, served by the hypervisor", path)
		case accessAs(account, path, unix.R_OK|unix.X_OK) == "":
			// Files below it may still be writable.
			d.missing(check, why, fmt.Sprintf("if the guest writes to it, make user %s its owner; otherwise set readOnly", d.Host.User))
		default:
			d.failed(check, why, fmt.Sprintf("create the directory and make it readable and searchable for user %s, or use virtiofs, which root serves", d.Host.User))
		}
	}
}

// compiledFor checks that the plan was made for the version of the hypervisor.
func (d *Doctor) compiledFor(plan *hypervisor.Plan, path string) {
	if plan.CompiledFor == nil {
		return
	}
	const check = "hypervisor version"
	remedy := fmt.Sprintf("rebuild and restart the VM: microvm update --restart %s", plan.Name)
	versions := foreign.Versions{Find: foreign.InUnit, Account: d.credential()}
	major, minor, err := versions.Of(path)
	switch {
	case err != nil:
		d.missing(check, err.Error(), "make it executable for all users, so its version can be determined, then run: microvm update "+plan.Name)
	case plan.CompiledFor.Unknown:
		d.failed(check, fmt.Sprintf("%d.%d, but was unknown when the VM was built, so features such as the sandbox are off", major, minor), remedy)
	case !plan.CompiledFor.Includes(major, minor):
		d.failed(check, fmt.Sprintf("%d.%d, but the VM was built for %s", major, minor, plan.CompiledFor), remedy)
	default:
		d.ok(check, "%d.%d, and the VM was built for %s", major, minor, plan.CompiledFor)
	}
}

// credential returns the hypervisors' account, or nil if it does not exist.
func (d *Doctor) credential() *syscall.Credential {
	account, err := d.Host.Account()
	if err != nil {
		return nil
	}
	return account.Alone()
}
