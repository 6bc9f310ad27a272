# mkSpec: converts the values of a guest's microvm.* options to the attribute set that
# builtins.toJSON turns into a spec. Options and fields have the same names, so this only
# leaves out unset values, replaces packages by their paths, and adds the kernel's file,
# the store disk and the toplevel.
{
  lib,
  capabilities,
  cleanPath,
  onlyOwn,
  runnerScripts,
  socketPath,
}:

{
  pkgs,
  microvmConfig,
  toplevel,
}:

let
  cfg = microvmConfig;
  inherit (cfg) hypervisor;

  # "./x" becomes x. The programs reject paths without a name and paths that lead out.
  plainPath = path: if lib.hasPrefix "./" path then cleanPath path else path;
  platform = pkgs.stdenv.hostPlatform;
  capability = capabilities.${hypervisor};
  arch = platform.parsed.cpu.name;

  # null means an absent field, except where the Go type distinguishes them.
  withoutNulls =
    value:
    if builtins.isList value then
      map withoutNulls value
    else if builtins.isAttrs value && !lib.isDerivation value then
      lib.mapAttrs (_: withoutNulls) (lib.filterAttrs (_: v: v != null) value)
    else
      value;

  image = pkgs.linux.target or platform.linux-kernel.target;
  kernel =
    if builtins.elem arch capability.vmlinux then
      "${lib.getDev cfg.kernel}/vmlinux"
    else
      "${lib.getOutput "out" cfg.kernel}/${image}";

  # Fields with the same name and meaning as their option.
  same = lib.genAttrs [
    "vcpu"
    "mem"
    "hugepageMem"
    "hotplugMem"
    "hotpluggedMem"
    "balloon"
    "initialBalloonMem"
    "deflateOnOOM"
    "cpu"
    "user"
    "preStart"
    "extraArgsScript"
    "prettyProcnames"
    "readiness"
    "kernelParams"
    "interfaces"
    "forwardPorts"
    "devices"
    "registerWithMachined"
    "storeOnDisk"
  ] (name: cfg.${name});

  share =
    s:
    withoutNulls s
    // {
      source = plainPath s.source;
      # In the spec, null means no socket, and an absent field means the default.
      socket = socketPath cfg s.socket;
    };

  # Only the section of the VM's hypervisor is written, as the packages in it have to be
  # built.
  sections = {
    qemu = {
      qemu = withoutNulls {
        inherit (cfg.qemu)
          machine
          machineOpts
          extraArgs
          serialConsole
          pcieRootPorts
          ;
        package = "${qemuPackage}";
      };
    };
    cloud-hypervisor = {
      cloud-hypervisor = {
        inherit (cfg.cloud-hypervisor) platformOEMStrings landlock extraArgs;
        package = "${cfg.cloud-hypervisor.package}";
      };
    };
    firecracker = {
      firecracker = withoutNulls {
        inherit (cfg.firecracker) cpu driveIoEngine extraArgs jailer;
        package = "${cfg.firecracker.package}";
      } // { inherit (cfg.firecracker) extraConfig; };
    };
    crosvm = {
      crosvm = withoutNulls {
        inherit (cfg.crosvm) extraArgs pivotRoot;
        package = "${cfg.crosvm.package}";
      };
    };
    kvmtool.kvmtool.package = "${cfg.kvmtool.package}";
    stratovirt.stratovirt.package = "${cfg.stratovirt.package}";
    alioth.alioth.package = "${cfg.alioth.package}";
  };

  # USB passthrough needs a QEMU that is built with libusb.
  hasUsb = builtins.any ({ bus, ... }: bus == "usb") cfg.devices;
  withUsb =
    qemu:
    qemu.overrideAttrs (old: {
      configureFlags = old.configureFlags or [ ] ++ [ "--enable-libusb" ];
      buildInputs = old.buildInputs or [ ] ++ [ cfg.vmHostPackages.libusb1 ];
    });
  qemuPackage = if hasUsb then withUsb cfg.qemu.package else cfg.qemu.package;

  hasVirtiofs = builtins.any ({ proto, ... }: proto == "virtiofs") cfg.shares;
in
withoutNulls same
// {
  name = cfg.hostName;
  inherit
    arch
    hypervisor
    kernel
    ;
  inherit (cfg) machineId;
  socket = socketPath cfg cfg.socket;
  initrdPath = "${cfg.initrdPath}";
  # The scripts that run the VM are the package's own, as in microvm.nix. Empty scripts
  # are left out.
  binScripts = lib.filterAttrs (_: text: !(onlyOwn text)) (removeAttrs cfg.binScripts runnerScripts);
  volumes = map (v: withoutNulls v // { image = plainPath v.image; }) cfg.volumes;
  shares = map share cfg.shares;
  vsock = withoutNulls { inherit (cfg.vsock) cid; } // {
    ssh = { inherit (cfg.vsock.ssh) shutdown; };
  };
  # Paths become strings, so that secrets are not copied into the store.
  credentialFiles = lib.mapAttrs (_: toString) cfg.credentialFiles;
}
// sections.${hypervisor}
// lib.optionalAttrs cfg.storeOnDisk {
  storeDisk = "${cfg.storeDisk}";
}
// lib.optionalAttrs cfg.systemSymlink {
  system = "${toplevel}";
}
// lib.optionalAttrs cfg.graphics.enable {
  graphics =
    withoutNulls {
      inherit (cfg.graphics)
        enable
        backend
        vulkan
        hostmem
        ;
      socket = socketPath cfg cfg.graphics.socket;
    }
    // lib.optionalAttrs (hypervisor != "qemu") {
      crosvmPackage = "${cfg.graphics.crosvmPackage}";
    };
}
// lib.optionalAttrs hasVirtiofs {
  virtiofsd = {
    inherit (cfg.virtiofsd)
      inodeFileHandles
      threadPoolSize
      group
      extraArgs
      ;
    package = "${cfg.virtiofsd.package}";
  };
}
