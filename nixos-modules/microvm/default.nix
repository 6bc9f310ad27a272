# A NixOS system as a microVM.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  microvm-lib = import ../../nix/lib.nix { inherit lib; };

  forHypervisor =
    hypervisor:
    config.microvm
    // {
      inherit (config.networking) hostName;
      inherit hypervisor;
    };
  arguments = hypervisor: {
    inherit pkgs;
    inherit (config.system.build) toplevel;
    microvmConfig = forHypervisor hypervisor;
  };
in
{
  imports = [
    ./options.nix
    ./asserts.nix
    ./system.nix
    ./mounts.nix
    ./store-disk.nix
    ./boot-disk.nix
    ./optimization.nix
    ./graphics.nix
    ./vsock-ssh.nix
    ./ssh-deploy.nix
  ];

  config.microvm = {
    spec = microvm-lib.mkSpec (arguments config.microvm.hypervisor);
    runner = lib.genAttrs microvm-lib.hypervisors (
      hypervisor: microvm-lib.buildRunner (arguments hypervisor)
    );
  };
}
