// Package hypervisor turns a spec into the plan of one VM: the hypervisor's argument
// vector and everything that the host's helpers do for it. Every hypervisor has a file;
// what each supports is a table, capabilities.json.
//
// It is written for QEMU 7.2 to 10, Cloud Hypervisor 20 to 54, Firecracker 1.5 to
// 1.17-dev, crosvm of 2025 and 2026 and kvmtool of August 2024 (neither has releases),
// StratoVirt 2.4 and 2.5, and Alioth 0.12. Each file names the documents and sources that
// it follows.
package hypervisor
