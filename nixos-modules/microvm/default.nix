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
    # The package's own commands, on a line of their own, so that other definitions can
    # come before or after them or replace them, as in microvm.nix.
    binScripts =
      let
        cfg = config.microvm;
        own = names: lib.genAttrs names (_: microvm-lib.ownCommands + "\n");
        ofType = wanted: builtins.any ({ type, ... }: type == wanted) cfg.interfaces;
      in
      lib.mkMerge [
        (lib.mkIf (ofType "tap") (own [ "tap-up" "tap-down" ]))
        (lib.mkIf (ofType "macvtap") (own [ "macvtap-up" "macvtap-down" ]))
        (lib.mkIf (builtins.any ({ bus, ... }: bus == "pci") cfg.devices) (own [ "pci-setup" ]))
        (lib.mkIf (builtins.any ({ proto, ... }: proto == "virtiofs") cfg.shares) (own [ "virtiofsd-run" ]))
      ];
    spec = microvm-lib.mkSpec (arguments config.microvm.hypervisor);
    runner = lib.genAttrs microvm-lib.hypervisors (
      hypervisor: microvm-lib.buildRunner (arguments hypervisor)
    );
  };
}
