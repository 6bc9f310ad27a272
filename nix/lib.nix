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

  # The spec of a VM: what the Go programs turn into a runner package.
  mkSpec = import ./spec.nix { inherit lib capabilities; };

  # buildRunner { pkgs, microvmConfig, toplevel } makes a runner package from
  # the values of a guest's microvm.* options and its networking.hostName.
  buildRunner = import ./runner.nix;
}
