# buildRunner: a runner package from the values of a guest's microvm.* options. Nix
# writes the spec, and `microvm build` builds the package from it.
{
  pkgs,
  # config.microvm, with the additional attribute `hostName`.
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
  # A file in the store, which keeps the context of the paths in the JSON.
  specFile = vmHostPackages.writeText "microvm-${hostName}.json" (builtins.toJSON spec);

  # The programs that run the build, and those that the package's scripts call. They are
  # the same unless host and builder have different architectures.
  builder = vmHostPackages.buildPackages.callPackage ./package.nix { };
  programs = if cfg.package == null then vmHostPackages.callPackage ./package.nix { } else cfg.package;

  # Programs that `bin/microvm-run` needs in addition to the hypervisor when it is run
  # manually. Under systemd the host module's PATH has them.
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
        mkfs.${fsType} or (throw "volume \"${image}\" has the unsupported fsType \"${fsType}\"\nhint: use one of ${toString (builtins.attrNames mkfs)}, or set autoCreate = false")
      ) created
    )
    ++ lib.optional (builtins.any ({ from, ... }: from == "guest") cfg.forwardPorts) vmHostPackages.netcat;

  # Through the hypervisor, or through the guest's SSH server.
  canShutdown =
    (builtins.elem arch capability.shutdown && cfg.socket != null)
    || (capability.vsock != "none" && cid != null && cfg.vsock.ssh.shutdown);

  cid = microvm-lib.vsockCid cfg;

  script = ''
    # Built in the working directory, as only $out can be created in the store. The
    # scripts must not be changed afterwards: the package's plan has their digests.
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
      # What the host module needs to know of this VM.
      supportsNotifySocket =
        capability.guestReadiness
        && cid != null
        && builtins.elem cfg.readiness [
          null
          "guest"
        ];
      tapMultiQueue = builtins.elem arch capability.tapMultiQueue && cfg.vcpu > 1;
      inherit (cfg) registerWithMachined machineId;
      # A digest of the VM that does not depend on the release of the programs, and the
      # build script, by which the host module detects an override.
      vmDigest = builtins.hashString "sha256" (builtins.unsafeDiscardStringContext (builtins.toJSON spec));
      asBuilt = script;
    };
  }
  script
