# For custom runners: shell commands that create missing images of volumes, with their
# file systems. The runners of this project do not use it: their programs create images
# when the VM starts.
{ pkgs }:

let
  inherit (pkgs) lib;
  inherit (import ../nix/lib.nix { inherit lib; }) defaultFsType;

  # The package of each mkfs.TYPE, and its option for a label.
  of = package: label: { inherit package label; };
  fileSystems = {
    ext2 = of pkgs.e2fsprogs "-L";
    ext3 = of pkgs.e2fsprogs "-L";
    ext4 = of pkgs.e2fsprogs "-L";
    xfs = of pkgs.xfsprogs "-L";
    btrfs = of pkgs.btrfs-progs "-L";
    vfat = of pkgs.dosfstools "-n";
  };

  complete =
    volume:
    {
      fsType = defaultFsType;
      label = null;
      mkfsExtraArgs = [ ];
    }
    // lib.filterAttrs (_: value: value != null) volume;

  # The image has another name until it is complete, so that a crash leaves no image that
  # looks finished.
  make =
    volume:
    let
      inherit (complete volume) image fsType label mkfsExtraArgs;
      size =
        if volume.size or 0 > 0 then
          volume.size
        else
          throw "volume \"${image}\" has no size\nhint: set its size in MiB, or set autoCreate = false if the image exists";
      mkfs = [
        "mkfs.${fsType}"
      ]
      ++ lib.optionals (label != null) [
        fileSystems.${fsType}.label
        label
      ]
      ++ mkfsExtraArgs;
      new = lib.escapeShellArg "${image}.new";
    in
    ''
      if [ ! -e ${lib.escapeShellArg image} ]; then
        rm -f ${new}
        touch ${new}
        # On btrfs, disk images should not be copied on write.
        chattr +C ${new} 2>/dev/null || true
        truncate -s ${toString size}M ${new} && ${lib.escapeShellArgs mkfs} ${new} && mv ${new} ${lib.escapeShellArg image} || exit
      fi
    '';
in
{
  createVolumesScript =
    volumes:
    let
      made = builtins.filter (volume: volume.autoCreate or true) volumes;
      package =
        volume:
        let
          inherit (complete volume) image fsType;
        in
        (fileSystems.${fsType}
          or (throw "volume \"${image}\" has the unsupported fsType \"${fsType}\"\nhint: set autoCreate = false and create the image yourself")
        ).package;
    in
    lib.optionalString (made != [ ]) ''
      PATH=$PATH:${
        lib.makeBinPath (
          lib.unique (
            [
              pkgs.coreutils
              pkgs.e2fsprogs
            ]
            ++ map package made
          )
        )
      }
    ''
    + lib.concatMapStrings make made;
}
