# microvm.virtiofsd: a guest's own settings; on a host, the defaults of the VMs
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
        How virtiofsd remembers the guest's inodes: by file handles that cost no
        open file (`prefer`, `mandatory`) or by open files (`never`). `null`
        leaves it to virtiofsd.

        File handles avoid "too many open files" on large trees, on ZFS above
        all.
      '';
    };

    threadPoolSize = mkOption {
      type = types.oneOf [
        types.str
        types.ints.unsigned
      ];
      default = "`nproc`";
      description = ''
        Worker threads of each virtiofsd. The word `nproc` in backquotes stands
        for one thread a core of the host.
      '';
    };

    group = mkOption {
      type = types.nullOr types.str;
      default = "kvm";
      description = ''
        Group that owns virtiofsd's sockets. `null` stands for the group of the
        hypervisor's user.
      '';
    };

    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "More arguments for every virtiofsd of the VM.";
    };

    package = mkOption {
      type = types.package;
      default = (config.microvm.vmHostPackages or pkgs).virtiofsd;
      defaultText = literalExpression "config.microvm.vmHostPackages.virtiofsd; on a host, pkgs.virtiofsd";
      description = "Package that provides virtiofsd.";
    };
  };
}
