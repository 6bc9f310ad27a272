# Smaller closures and shorter boots; see microvm.optimize.enable.
{
  config,
  lib,
  options,
  ...
}:

let
  cfg = config.microvm;
  microvm-lib = import ../../nix/lib.nix { inherit lib; };
  inherit (lib) mkDefault;

  # Options that some releases of NixOS do not have.
  known = path: lib.optionalAttrs (lib.hasAttrByPath path options);

  # A machine that is a host, boots by itself, and imports the guest's module too.
  isHost = options.microvm ? host && cfg.host.enable;
  loaders = builtins.filter (name: config.boot.loader.${name}.enable or false) [
    "external"
    "generic-extlinux-compatible"
    "grub"
    "limine"
    "refind"
    "systemd-boot"
  ];
  cannotSwitch = (known [ "system" "switch" ] config.system).switch.enable or true == false;

  # Only a running system with an SSH server and the host's store can be switched.
  switchable = config.services.openssh.enable && microvm-lib.hostStoreShare cfg.shares != null;
in
lib.mkIf (cfg.guest.enable && cfg.optimize.enable) {
  documentation.enable = mkDefault false;

  boot = {
    initrd.systemd = {
      # It boots faster, and does not find the store on the others.
      enable = mkDefault (
        builtins.elem cfg.hypervisor [
          "qemu"
          "cloud-hypervisor"
          "firecracker"
          "stratovirt"
        ]
      );
    }
    // known [ "boot" "initrd" "systemd" "tpm2" ] { tpm2.enable = mkDefault false; };
    # The kernel would look for four serial ports.
    kernelParams = [ "8250.nr_uarts=1" ];
  }
  // known [ "boot" "swraid" ] { swraid.enable = mkDefault false; };

  networking.useNetworkd = mkDefault true;
  systemd = {
    network.wait-online.enable = mkDefault false;
  }
  // known [ "systemd" "tpm2" ] { tpm2.enable = mkDefault false; };

  nixpkgs.overlays = [
    (_: prev: lib.optionalAttrs (prev ? stratovirt) { stratovirt = prev.stratovirt.override { gtk3 = null; }; })
  ];

  # Says nothing where it could be used, so that others may have a default of
  # their own.
  system = known [ "system" "switch" ] {
    switch.enable = lib.mkIf (!switchable) (mkDefault false);
  };

  warnings = lib.optional (isHost && loaders != [ ] && cannotSwitch)
    "This host of MicroVMs boots by ${toString loaders}, and its configuration has the module of a guest as well, which leaves switch-to-configuration out: nixos-rebuild switch cannot work. Import only the host's module, or set microvm.guest.enable = false.";
}
