package control

// Answers of the real programs in the VM host of the end-to-end tests or, where noted,
// without a VM. TestRealHypervisors logs such answers, to keep the stand-ins true.

// chVMInfo is of Cloud Hypervisor 54.0, 2026-11-26, without most of what does not concern the
// VM's memory. Without virtio-mem the real one has no hotplugged_size;
// memory_actual_size is as vm_info of its vmm/src/lib.rs makes it.
const chVMInfo = `{"config":{"cpus":{"boot_vcpus":1,"max_vcpus":1,"kvm_hyperv":false,"max_phys_bits":46,"features":{"amx":false}},` +
	`"memory":{"size":268435456,@PLUGGED@"mergeable":false,"hotplug_method":"Acpi","shared":true,"hugepages":false,"prefault":false,"reserve":false,"thp":true},` +
	`"balloon":{"pci_segment":0,"size":@BALLOON@,"deflate_on_oom":true,"free_page_reporting":true},"serial":{"mode":"Tty"},"watchdog":true},` +
	`"state":"Running","memory_actual_size":@ACTUAL@,"device_tree":{"__ioapic":{"id":"__ioapic","resources":[],"children":[]}}}`

// Firecracker 1.17.0-dev, 2026-11-26; the first two without a VM. The guest's own
// statistics are those with an empty balloon, and are not used.
const (
	firecrackerInstance = `{"id":"anonymous-instance","state":"Running","vmm_version":"1.17.0-dev","app_name":"Firecracker"}`
	firecrackerMachine  = `{"vcpu_count":1,"mem_size_mib":256,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}`
	firecrackerBalloon  = `{"target_pages":@BALLOON-PAGES@,"actual_pages":@BALLOON-PAGES@,"target_mib":@BALLOON-MIB@,"actual_mib":@BALLOON-MIB@,` +
		`"swap_in":0,"swap_out":0,"major_faults":0,"minor_faults":403,"free_memory":187834368,"total_memory":222953472,"available_memory":184786944,` +
		`"disk_caches":8294400,"hugetlb_allocations":0,"hugetlb_failures":0,"oom_kill":0,"alloc_stall":0,"async_scan":0,"direct_scan":0,"async_reclaim":0,"direct_reclaim":0}`
)

// crosvmBalloon is of crosvm's sources of 2026-08-21, 2026-11-26. The total is the guest's own
// and does not depend on the balloon; any size is accepted.
const crosvmBalloon = `case $1 in
balloon) echo $(($2 / 1048576)) > size;;
balloon_stats) cat <<END
{
  "BalloonStats": {
    "stats": {
      "swap_in": 0,
      "swap_out": 0,
      "major_faults": 0,
      "minor_faults": 336,
      "free_memory": $((182059008 - $(cat size) * 1048576)),
      "total_memory": 220876800,
      "available_memory": $((179052544 - $(cat size) * 1048576)),
      "disk_caches": 8302592,
      "hugetlb_allocations": 0,
      "hugetlb_failures": 0,
      "shared_memory": null,
      "unevictable_memory": null
    },
    "balloon_actual": $(($(cat size) * 1048576))
  }
}
END
esac
echo '[2026-11-26T00:17:33.346448474+00:00 INFO  crosvm] exiting with success' >&2
`
