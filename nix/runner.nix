# buildRunner: a runner package from the values of a guest's microvm.* options.
# Nix writes the spec; `microvm build` makes the package of it.
{
  pkgs,
  # config.microvm, with `hostName` beside it.
  microvmConfig,
  # The guest's config.system.build.toplevel.
  toplevel,
}:

let
  inherit (pkgs) lib;
  microvm-lib = import ./lib.nix { inherit lib; };

  cfg = microvm-lib.adopt microvmConfig;
  inherit (cfg) hostName hypervisor vmHostPackages;
  capability = microvm-lib.capabilities.${hypervisor};
  arch = pkgs.stdenv.hostPlatform.parsed.cpu.name;

  spec = microvm-lib.mkSpec {
    inherit pkgs toplevel;
    microvmConfig = cfg;
  };
  # JSON cannot hold the paths' context in a file that is passed by name, so it
  # is a file in the store.
  specFile = vmHostPackages.writeText "microvm-${hostName}.json" (builtins.toJSON spec);

  # What runs the build, and what the package's scripts call: the same, unless
  # the host is of another architecture than the builder.
  builder = vmHostPackages.buildPackages.callPackage ./package.nix { };
  programs = if cfg.package == null then vmHostPackages.callPackage ./package.nix { } else cfg.package;

  # What `bin/microvm-run` starts beside the hypervisor when people run it by
  # hand; under systemd the host module's PATH has it all.
  mkfs = {
    ext2 = vmHostPackages.e2fsprogs;
    ext3 = vmHostPackages.e2fsprogs;
    ext4 = vmHostPackages.e2fsprogs;
    xfs = vmHostPackages.xfsprogs;
    btrfs = vmHostPackages.btrfs-progs;
    vfat = vmHostPackages.dosfstools;
  };
  created = builtins.filter (volume: volume.autoCreate) cfg.volumes;
  tools =
    lib.unique (
      map (
        { fsType, image, ... }:
        mkfs.${fsType} or (throw "volume ${image}: nothing here can make a file system of type ${fsType}; use one of ${toString (builtins.attrNames mkfs)}, or autoCreate = false")
      ) created
    )
    ++ lib.optional (builtins.any ({ from, ... }: from == "guest") cfg.forwardPorts) vmHostPackages.netcat;

  # By the hypervisor, or by the guest's own SSH server.
  canShutdown =
    (builtins.elem arch capability.shutdown && cfg.socket != null)
    || (capability.vsock != "none" && cid != null && cfg.vsock.ssh.shutdown);

  cid = microvm-lib.vsockCid cfg;

  script = ''
    # In a directory of the build's own: the store itself takes only $out.
    # What the package's scripts have in them is in its plan, so nothing changes
    # them here.
    ${builder}/bin/microvm build ${specFile} -o runner --at $out${
      lib.optionalString (builder.outPath != programs.outPath) " --programs ${programs}"
    }${lib.optionalString (tools != [ ]) " --path ${lib.makeBinPath tools}"}
    mv runner $out
  '';
in
vmHostPackages.buildPackages.runCommand "microvm-${hypervisor}-${hostName}"
  {
    # For `nix run`.
    meta.mainProgram = "microvm-run";
    passthru = {
      inherit
        canShutdown
        hypervisor
        spec
        specFile
        ;
      # What a host's programs have to be able to do for this VM.
      supportsNotifySocket =
        capability.guestReadiness
        && cid != null
        && builtins.elem cfg.readiness [
          null
          "guest"
        ];
      tapMultiQueue = builtins.elem arch capability.tapMultiQueue && cfg.vcpu > 1;
      inherit (cfg) registerWithMachined machineId;
      # What the VM is, whichever release of the programs builds it; and by what
      # to tell whether somebody has changed the build.
      vmDigest = builtins.hashString "sha256" (builtins.unsafeDiscardStringContext (builtins.toJSON spec));
      asBuilt = script;
    };
  }
  script
