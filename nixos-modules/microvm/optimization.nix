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

  # For options that some releases of NixOS do not have.
  known = path: lib.optionalAttrs (lib.hasAttrByPath path options);

  # Whether this is a host that also imports the guest's module.
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

  # Only a guest with an SSH server and the host's store can be switched.
  switchable = config.services.openssh.enable && microvm-lib.hostStoreShare cfg.shares != null;
in
lib.mkIf (cfg.guest.enable && cfg.optimize.enable) {
  documentation.enable = mkDefault false;

  boot = {
    initrd.systemd = {
      # It boots faster, but does not find the store with the other hypervisors.
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
    # By default the kernel probes four serial ports.
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

  # No definition if the guest can be switched, so that other modules can set their own
  # default.
  system = known [ "system" "switch" ] {
    switch.enable = lib.mkIf (!switchable) (mkDefault false);
  };

  warnings = lib.optional (isHost && loaders != [ ] && cannotSwitch)
    "this host of MicroVMs boots with ${toString loaders}, but also imports the guest's module, which removes switch-to-configuration, so nixos-rebuild switch cannot work\nhint: import only the host's module, or set microvm.guest.enable = false";
}
