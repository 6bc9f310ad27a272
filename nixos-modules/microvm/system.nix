# Adapts the guest's system to its virtual hardware.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  overlay = cfg.writableStoreOverlay != null;

  # The store disk contains the whole closure. With a reference to the toplevel, the
  # runner's closure would contain all of it a second time.
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
    # Firecracker sends ctrl-alt-del through the keyboard controller.
    ++ lib.optional (cfg.hypervisor == "firecracker" && pkgs.stdenv.hostPlatform.isx86_64) "i8042"
    ++ lib.optional overlay "overlay";

    # For readiness and SSH over vsock, also if the device is on virtio-mmio.
    initrd.availableKernelModules = [ "vmw_vsock_virtio_transport" ];

    # They take time at boot and are of no use in a VM.
    blacklistedKernelModules = [
      "rfkill"
      "intel_pstate"
    ]
    ++ lib.optional (!cfg.graphics.enable) "drm";
  };

  systemd = {
    # The daemon needs a writable store.
    services.nix-daemon.enable = lib.mkDefault overlay;
    sockets.nix-daemon.enable = lib.mkDefault overlay;
    services.mount-pstore.enable = false;
    # There is no partition table to read.
    generators.systemd-gpt-auto-generator = "/dev/null";
  };

  # The same identity in SMBIOS, systemd-machined, the journal and elsewhere.
  environment.etc."machine-id" = lib.mkIf (cfg.machineId != null) {
    text = lib.replaceStrings [ "-" ] [ "" ] cfg.machineId + "\n";
  };
  networking.hostId = lib.mkIf (cfg.machineId != null) (
    lib.mkDefault (builtins.substring 0 8 cfg.machineId)
  );
}
