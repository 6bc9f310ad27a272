# For runners that people write themselves: the commands of a shell that make the
# images of volumes which are missing, with their file systems. Runners of ours do
# not use it; the programs make images at the VM's start.
{ pkgs }:

let
  inherit (pkgs) lib;
  inherit (import ../nix/lib.nix { inherit lib; }) defaultFsType;

  # Whose mkfs.TYPE it is, and how that takes a label.
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

  # Under another name until it is whole: a crash leaves none that looks finished.
  make =
    volume:
    let
      inherit (complete volume) image fsType label mkfsExtraArgs;
      size =
        if volume.size or 0 > 0 then
          volume.size
        else
          throw "volume \"${image}\" has no size; set its size in MiB, or autoCreate = false for an image that is there.";
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
        # On btrfs, a disk that is written in place wants no copies.
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
          or (throw "volume \"${image}\" has fsType \"${fsType}\", which nothing here makes; set autoCreate = false, and make it yourself.")
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
