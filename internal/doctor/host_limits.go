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

// limits checks what this host allows, of what the VM needs.
func (d *Doctor) limits(vm statedir.VM, plan *hypervisor.Plan) {
	d.reachable(vm, plan)
	d.hidden(vm, plan)
	d.ram(plan)
	d.namespaces(plan)
	d.ports(plan)
	d.ninePShares(vm, plan)
}

// reachable checks, as the hypervisors' account, all of the way to the package:
// the state directory, the VM's own, the store, and the package itself.
func (d *Doctor) reachable(vm statedir.VM, plan *hypervisor.Plan) {
	account, err := d.Host.Account()
	if err != nil {
		return // said already
	}
	file, mode := "share/microvm/runner.json", uint32(unix.R_OK)
	if plan.Foreign {
		file, mode = "bin/microvm-run", unix.X_OK
	}
	if why := accessAs(account, filepath.Join(vm.Dir(), "current", file), mode); why != "" {
		d.failed("package access", why, "let everybody search the directory and read the package; microvm update "+vm.Name+", or install-microvm, sets the modes of what is in "+d.Host.StateDir)
		return
	}
	d.ok("package access", "user %s reads it", d.Host.User)
}

// hidden looks for files that the VM's unit does not see: of the state directory it
// has the VM's own and the store.
func (d *Doctor) hidden(vm statedir.VM, plan *hypervisor.Plan) {
	top, err := d.Host.RealStateDir()
	if err != nil {
		return
	}
	for _, f := range plan.Files {
		real, err := filepath.EvalSymlinks(f.Path)
		if err != nil {
			continue // said already
		}
		rel, err := filepath.Rel(top, real)
		first, _, _ := strings.Cut(rel, "/")
		if err == nil && first != ".." && first != vm.Name && first != ".store" {
			d.failed("file "+f.Role, fmt.Sprintf("%s is below %s, of which the VM's unit sees only the VM's own directory", f.Path, top), "move it elsewhere, and correct the spec")
		}
	}
}

// ram checks that the host has the memory and the CPUs.
func (d *Doctor) ram(plan *hypervisor.Plan) {
	if total := d.memTotal(); total > 0 && plan.MemMiB > total {
		d.failed("memory", fmt.Sprintf("the VM has %d MiB, and this host %d", plan.MemMiB, total), "set mem in the spec to less, and install it again")
	}
	if cpus := runtime.NumCPU(); plan.VCPU > cpus {
		d.missing("CPUs", fmt.Sprintf("the VM has %d, and this host %d, which slows its guest down", plan.VCPU, cpus), "set vcpu in the spec to less, and install it again")
	}
}

// memTotal is the host's memory in MiB, proc_meminfo(5); 0 where it is unknown.
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

// sysctl is a number below /proc/sys; false where there is none.
func (d *Doctor) sysctl(name string) (int, bool) {
	data, err := os.ReadFile(d.path("proc/sys", strings.ReplaceAll(name, ".", "/")))
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return n, err == nil
}

// namespaces checks that the kernel lets the VM's units have theirs: with a limit
// of 0, namespaces(7), nothing starts, and systemd says only USER or NAMESPACE.
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
			d.failed("sysctl "+name, "is 0, which fails "+kinds[kind],
				fmt.Sprintf("run: sysctl %[1]s=10000; and write \"%[1]s = 10000\" into /etc/sysctl.d, where something sets it to 0", name))
		}
	}
}

// unprivilegedPort is the first port that everybody may listen on, ip(7).
const unprivilegedPort = "net.ipv4.ip_unprivileged_port_start"

func (d *Doctor) ports(plan *hypervisor.Plan) {
	first, ok := d.sysctl(unprivilegedPort)
	if !ok {
		return
	}
	for _, p := range plan.HostPorts {
		if p.Port < first {
			d.failed(fmt.Sprintf("port %s/%d", p.Proto, p.Port), fmt.Sprintf("user %s may listen from port %d on only", d.Host.User, first),
				fmt.Sprintf("forward from a port of %d or more, or run: sysctl %s=%d", first, unprivilegedPort, p.Port))
		}
	}
}

// ninePShares checks what the hypervisor itself serves, as its account.
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
			d.ok(check, "%s is made at the first start", path)
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
			d.failed(check, path+" is no directory", "correct the share's source in the spec")
		case why == "":
			d.ok(check, "%s, by the hypervisor", path)
		case accessAs(account, path, unix.R_OK|unix.X_OK) == "":
			// What is below it may be the account's all the same.
			d.missing(check, why, fmt.Sprintf("if the guest is to write there, give it to user %s, or set readOnly", d.Host.User))
		default:
			d.failed(check, why, fmt.Sprintf("make the directory, and let user %s read and search it; or take virtiofs, which root serves", d.Host.User))
		}
	}
}

// compiledFor checks that the hypervisor is of a version that the plan was made
// for.
func (d *Doctor) compiledFor(plan *hypervisor.Plan, path string) {
	if plan.CompiledFor == nil {
		return
	}
	const check = "hypervisor version"
	remedy := fmt.Sprintf("build the VM anew: microvm update %s; and restart it", plan.Name)
	versions := foreign.Versions{Find: foreign.InUnit, Account: d.credential()}
	major, minor, err := versions.Of(path)
	switch {
	case err != nil:
		d.missing(check, err.Error(), "let everybody execute it, so that what depends on its version can be chosen; then: microvm update "+plan.Name)
	case plan.CompiledFor.Unknown:
		d.failed(check, fmt.Sprintf("it is %d.%d, and was unknown when the VM was built: what the oldest has not is off, such as a sandbox", major, minor), remedy)
	case !plan.CompiledFor.Includes(major, minor):
		d.failed(check, fmt.Sprintf("it is %d.%d, and the VM was built for %s", major, minor, plan.CompiledFor), remedy)
	default:
		d.ok(check, "%d.%d, as the VM was built for (%s)", major, minor, plan.CompiledFor)
	}
}

// credential is the hypervisors' account; nil where there is none.
func (d *Doctor) credential() *syscall.Credential {
	account, err := d.Host.Account()
	if err != nil {
		return nil
	}
	return account.Alone()
}
