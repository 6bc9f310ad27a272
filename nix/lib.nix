# What the flake's `lib` offers, and what both modules share. Everything that is
# known of a hypervisor comes from the table that the Go programs embed.
{ lib }:

let
  capabilities = lib.importJSON ../internal/hypervisor/capabilities.json;
in
rec {
  inherit capabilities;

  # In the order of the documentation: the default first.
  hypervisors = [ "qemu" ] ++ lib.remove "qemu" (builtins.attrNames capabilities);

  # Every hypervisor of the table has a network.
  hypervisorsWithNetwork = builtins.filter (
    name: capabilities.${name}.interfaces != [ ]
  ) hypervisors;

  # The file system of a volume that names none.
  defaultFsType = "ext4";

  # The names that the guest's kernel gives virtio-blk disks: in the order in
  # which the hypervisor adds them, the store disk first.
  withDriveLetters =
    { volumes, storeOnDisk, ... }:
    lib.imap0 (
      i: volume:
      volume
      // {
        letter = builtins.elemAt lib.lowerChars (i + (if storeOnDisk then 1 else 0));
      }
    ) volumes;

  # The share that brings the host's store, or null.
  hostStoreShare = shares: lib.findFirst ({ source, ... }: source == "/nix/store") null shares;

  # The same UUID that the Go programs derive (spec.DefaultMachineID).
  defaultMachineId =
    hostName:
    let
      hash = builtins.hashString "sha256" "microvm.nix:${hostName}";
      part = from: length: builtins.substring from length hash;
    in
    lib.concatStringsSep "-" [
      (part 0 8)
      (part 8 4)
      (part 12 4)
      (part 16 4)
      (part 20 12)
    ];

  # The values of the options of a guest that microvm.nix's module has evaluated,
  # as this one has them: what it does not know, what has no default there, and
  # the scripts that it makes of other options.
  adopt =
    cfg:
    if cfg ? hostRunsTapUp then
      cfg
    else
      cfg
      // {
        hostRunsTapUp = false;
        package = null;
        readiness = null;
        firecracker = cfg.firecracker // {
          jailer = false;
        };
        vsock = cfg.vsock // {
          # That guest's sshd reads no key of the host's.
          ssh.shutdown = false;
        };
        interfaces = map (
          interface: if interface.type == "macvtap" then interface else removeAttrs interface [ "macvtap" ]
        ) cfg.interfaces;
        volumes = map (volume: if volume.autoCreate then volume else removeAttrs volume [ "size" ]) cfg.volumes;
        binScripts = removeAttrs cfg.binScripts [
          "tap-up"
          "tap-down"
          "macvtap-up"
          "macvtap-down"
          "pci-setup"
          "virtiofsd-run"
        ];
      };

  # The spec of a VM: what the Go programs turn into a runner package.
  mkSpec = import ./spec.nix { inherit lib capabilities; };

  # buildRunner { pkgs, microvmConfig, toplevel } makes a runner package from
  # the values of a guest's microvm.* options and its networking.hostName; the
  # guest may be one of microvm.nix's.
  buildRunner = import ./runner.nix;
}
