# microvm.virtiofsd: for a guest, its own settings; for a host, the defaults of the VMs
# that it declares with `config`. One file, so that a machine can be both.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) literalExpression mkOption types;
in
{
  options.microvm.virtiofsd = {
    inodeFileHandles = mkOption {
      type = types.nullOr (
        types.enum [
          "never"
          "prefer"
          "mandatory"
        ]
      );
      default = "prefer";
      description = ''
        How virtiofsd keeps track of the guest's inodes: by file handles, which need
        no open files (`prefer`, `mandatory`), or by open files (`never`). `null`
        uses virtiofsd's default.

        File handles avoid "too many open files" with large trees, especially on
        ZFS.
      '';
    };

    threadPoolSize = mkOption {
      type = types.oneOf [
        types.str
        types.ints.unsigned
      ];
      default = "`nproc`";
      description = ''
        Number of worker threads of each virtiofsd. `nproc` in backquotes means one
        thread per core of the host.
      '';
    };

    group = mkOption {
      type = types.nullOr types.str;
      default = "kvm";
      description = ''
        Group that owns virtiofsd's sockets. `null` means the group of the
        hypervisor's user.
      '';
    };

    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Further arguments for every virtiofsd of the VM.";
    };

    package = mkOption {
      type = types.package;
      default = (config.microvm.vmHostPackages or pkgs).virtiofsd;
      defaultText = literalExpression "config.microvm.vmHostPackages.virtiofsd; on a host, pkgs.virtiofsd";
      description = "Package that provides virtiofsd.";
    };
  };
}
