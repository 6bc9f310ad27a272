# A host for NixOS tests, with nested VMs that the host declares.
{ self, lib }:

{
  # The test's machine. Nested VMs run under KVM where the builder has nested
  # KVM, else under QEMU's emulation, slowly.
  host =
    vms:
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.host ];
      virtualisation = {
        memorySize = 4096;
        cores = 2;
        diskSize = 4096;
        qemu.options = [ "-cpu max" ];
      };
      boot.kernelModules = [
        "kvm_intel"
        "kvm_amd"
      ];
      microvm.host.startupTimeout = 900;
      microvm.vms = lib.mapAttrs (_: config: {
        config = {
          imports = [ config ];
          system.stateVersion = lib.trivial.release;
          # A boot is all that the tests want of it.
          documentation.enable = false;
          networking.useDHCP = lib.mkDefault false;
        };
      }) vms;
    };
}
