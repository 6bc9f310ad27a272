# Where the overlay looks for the patched package.
{ final, ... }: final.cloud-hypervisor
