# What makes the guest's system fit its virtual hardware.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  overlay = cfg.writableStoreOverlay != null;

  # The store disk holds the whole closure; a reference to it would make the
  # runner keep, and copy, all of that once more.
  toplevel =
    if cfg.storeOnDisk then
      builtins.unsafeDiscardStringContext "${config.system.build.toplevel}"
    else
      "${config.system.build.toplevel}";
in
lib.mkIf cfg.guest.enable {
  microvm.kernelParams = config.boot.kernelParams ++ [ "init=${toplevel}/init" ];

  boot = {
    loader.grub.enable = false;

    initrd.kernelModules = [
      "virtio_mmio"
      "virtio_pci"
      "virtio_blk"
      "9pnet_virtio"
      "9p"
      "virtiofs"
    ]
    # The keyboard controller brings Firecracker's ctrl-alt-del.
    ++ lib.optional (cfg.hypervisor == "firecracker" && pkgs.stdenv.hostPlatform.isx86_64) "i8042"
    ++ lib.optional overlay "overlay";

    # For readiness and ssh over vsock, also where the device is on virtio-mmio.
    initrd.availableKernelModules = [ "vmw_vsock_virtio_transport" ];

    # They take time at boot, and there is nothing for them in a VM.
    blacklistedKernelModules = [
      "rfkill"
      "intel_pstate"
    ]
    ++ lib.optional (!cfg.graphics.enable) "drm";
  };

  systemd = {
    # The daemon needs a store that it can write to.
    services.nix-daemon.enable = lib.mkDefault overlay;
    sockets.nix-daemon.enable = lib.mkDefault overlay;
    services.mount-pstore.enable = false;
    # There is no partition table to look at.
    generators.systemd-gpt-auto-generator = "/dev/null";
  };

  # One identity for SMBIOS, machined, the journal and whatever else asks.
  environment.etc."machine-id" = lib.mkIf (cfg.machineId != null) {
    text = lib.replaceStrings [ "-" ] [ "" ] cfg.machineId + "\n";
  };
  networking.hostId = lib.mkIf (cfg.machineId != null) (
    lib.mkDefault (builtins.substring 0 8 cfg.machineId)
  );
}
