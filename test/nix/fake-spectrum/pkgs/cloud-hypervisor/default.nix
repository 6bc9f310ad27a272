# Where the overlay looks for the patched package.
{ final, super }: final.stub "cloud-hypervisor-graphics" { base = super; }
