# The guest's file systems: root, store, volumes and shares.
{ config, lib, ... }:

let
  cfg = config.microvm;
  microvm-lib = import ../../nix/lib.nix { inherit lib; };
  inherit (microvm-lib)
    capabilities
    cleanPath
    deviceNames
    hostStoreShare
    samePath
    withDriveLetters
    ;

  hostStore = hostStoreShare cfg.shares;
  overlay = if cfg.writableStoreOverlay == null then null else cleanPath cfg.writableStoreOverlay;
  # Modules that stage 2 loads for the initrd's mounts have to be loaded first.
  afterModules = "x-systemd.after=systemd-modules-load.service";

  # squashfs has no label, but the store disk is always the first disk.
  storeDevice = if cfg.storeDiskType == "erofs" then "/dev/disk/by-label/nix-store" else "/dev/vda";

  roStore = if cfg.storeOnDisk then "/nix/.ro-store" else cleanPath hostStore.mountPoint;

  storeDisk = where: {
    ${where} = {
      device = storeDevice;
      fsType = cfg.storeDiskType;
      options = [
        "ro"
        afterModules
      ];
      neededForBoot = true;
      noCheck = true;
    };
  };

  # A bind mount of the host's store to /nix/store, if the share is mounted elsewhere.
  hostStoreBind = lib.optionalAttrs (hostStore != null && !samePath hostStore.mountPoint "/nix/store") {
    "/nix/store" = {
      device = cleanPath hostStore.mountPoint;
      # Mounting ignores the type of a bind mount; findmnt and similar programs show it.
      fsType = hostStore.proto;
      options = [
        "ro"
        "bind"
      ];
      neededForBoot = true;
    };
  };

  overlayOnShare = builtins.any (
    { mountPoint, proto, ... }: samePath mountPoint overlay && proto == "virtiofs"
  ) cfg.shares;

  storeOverlay = {
    "/nix/store" = {
      neededForBoot = true;
      overlay = {
        lowerdir = [ roStore ];
        upperdir = "${overlay}/store";
        workdir = "${overlay}/work";
      };
      # virtiofsd cannot set trusted.* attributes for the guest.
      options = lib.mkIf overlayOnShare [ "userxattr" ];
    };
  };

  store =
    if overlay != null then
      lib.optionalAttrs cfg.storeOnDisk (storeDisk "/nix/.ro-store") // storeOverlay
    else if cfg.storeOnDisk then
      storeDisk "/nix/store"
    else
      hostStoreBind;

  # The letter depends on the order of the disks; a label or a serial number identifies
  # the disk.
  volumeDevice =
    {
      label,
      serial,
      letter,
      ...
    }:
    if label != null then
      "/dev/disk/by-label/${deviceNames.ofLabel label}"
    else if serial != null && capabilities.${cfg.hypervisor}.volumeSerial then
      "/dev/disk/by-id/virtio-${deviceNames.ofSerial serial}"
    else
      "/dev/vd${letter}";

  volume =
    v:
    lib.nameValuePair (cleanPath v.mountPoint) (
      {
        device = volumeDevice v;
        inherit (v) fsType;
      }
      // lib.optionalAttrs v.readOnly { options = [ "ro" ]; }
      // lib.optionalAttrs (samePath v.mountPoint overlay) { neededForBoot = true; }
    );

  share =
    {
      mountPoint,
      tag,
      proto,
      source,
      readOnly,
      ...
    }:
    lib.nameValuePair (cleanPath mountPoint) (
      {
        device = tag;
        fsType = proto;
        # There is no device to check.
        noCheck = true;
        options =
          {
            virtiofs = [
              "defaults"
              afterModules
            ];
            "9p" = [
              "trans=virtio"
              "version=9p2000.L"
              "msize=65536"
              afterModules
            ];
          }
          .${proto}
          ++ lib.optional readOnly "ro";
      }
      // lib.optionalAttrs (samePath source "/nix/store" || samePath mountPoint overlay) { neededForBoot = true; }
    );
in
lib.mkIf cfg.guest.enable {
  fileSystems = lib.mkMerge [
    {
      "/" = lib.mkDefault {
        device = "rootfs";
        fsType = "tmpfs";
        options = [
          "size=50%"
          "mode=0755"
        ];
        neededForBoot = true;
      };
    }
    store
    (builtins.listToAttrs (
      map volume (builtins.filter ({ mountPoint, ... }: mountPoint != null) (withDriveLetters cfg))
    ))
    (builtins.listToAttrs (map share cfg.shares))
  ];

  # systemd would otherwise unmount the store that it runs from at shutdown.
  systemd.mounts =
    lib.mkIf (config.boot.initrd.systemd.enable && !cfg.storeOnDisk && overlay == null)
      [
        {
          what = "store";
          where = "/nix/store";
          overrideStrategy = "asDropin";
          unitConfig.DefaultDependencies = false;
        }
      ];
}
