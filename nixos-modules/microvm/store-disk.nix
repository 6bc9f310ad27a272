# A read-only image of the guest's store, and its registration in the guest's Nix
# database.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  build = pkgs.buildPackages;
  inherit (config.system.build) toplevel;

  regInfo = pkgs.closureInfo { rootPaths = [ toplevel ]; };

  # mkfs.erofs of nixpkgs is single-threaded, which -Ededupe needs; otherwise use a
  # build with several threads.
  erofs-utils =
    if builtins.elem "-Ededupe" cfg.storeDiskErofsFlags then
      build.erofs-utils
    else
      build.erofs-utils.overrideAttrs (old: {
        configureFlags = old.configureFlags or [ ] ++ [ "--enable-multithreading" ];
      });

  tool =
    {
      erofs = erofs-utils;
      squashfs = build.squashfs-tools-ng;
    }
    .${cfg.storeDiskType};

  mkfs =
    {
      erofs = "mkfs.erofs ${toString cfg.storeDiskErofsFlags} -T 0 --all-root -L nix-store --mount-point=/nix/store $out store";
      squashfs = "gensquashfs ${toString cfg.storeDiskSquashfsFlags} -D store --all-root -q $out";
    }
    .${cfg.storeDiskType};

  contents = pkgs.writeClosure ([ toplevel ] ++ lib.optional (cfg.registerClosure && config.nix.enable) regInfo);
  excluded = pkgs.writeClosure cfg.storeDiskExcludedClosures;

  paths =
    if cfg.storeDiskExcludedClosures == [ ] then
      "sort -u ${contents}"
    else
      "comm -23 <(sort -u ${contents}) <(sort -u ${excluded})";
in
{
  config = lib.mkMerge [
    (lib.mkIf (cfg.guest.enable && cfg.storeOnDisk) {
      # The hardened profile forbids erofs. Its list of forbidden modules depends on the
      # file systems, which depend on this option, so the profile is recognized by a
      # setting on which nothing else depends.
      microvm.storeDiskType = lib.mkDefault (
        if config.security.virtualisation.flushL1DataCache == "always" then "squashfs" else "erofs"
      );
      boot.initrd.availableKernelModules = [ cfg.storeDiskType ];

      microvm.storeDisk =
        build.runCommandLocal "microvm-store-disk.${cfg.storeDiskType}"
          {
            nativeBuildInputs = [
              build.bubblewrap
              tool
            ];
            passthru = {
              inherit regInfo;
            };
            __structuredAttrs = true;
            # The image is self-contained: it needs no other store paths.
            unsafeDiscardReferences.out = true;
          }
          ''
            mkdir store
            mapfile -t paths < <(${paths})
            binds=()
            for path in "''${paths[@]}"; do
              binds+=(--ro-bind "$path" "$PWD/store/''${path##*/}")
            done
            echo "packing an image (${cfg.storeDiskType}) of ''${#paths[@]} store paths"
            # Bind mounts save a copy of the closure, where the builder may have
            # a mount namespace.
            if ! bwrap --dev-bind / / --chdir "$PWD" "''${binds[@]}" -- ${mkfs}; then
              echo "no mount namespace here; copying the closure first" >&2
              rm -rf store $out
              mkdir store
              cp -a "''${paths[@]}" store/
              ${mkfs}
            fi
          '';
    })

    (lib.mkIf (cfg.guest.enable && cfg.registerClosure && config.nix.enable) {
      # On the kernel's command line, as the toplevel cannot refer to its own closure.
      microvm.kernelParams = [
        "regInfo=${
          if cfg.storeOnDisk then builtins.unsafeDiscardStringContext "${regInfo}" else "${regInfo}"
        }/registration"
      ];
      boot.postBootCommands = ''
        if [[ "$(< /proc/cmdline)" =~ (^| )regInfo=([^ ]+) ]]; then
          ${config.nix.package.out}/bin/nix-store --load-db < "''${BASH_REMATCH[2]}"
        fi
      '';
    })
  ];
}
