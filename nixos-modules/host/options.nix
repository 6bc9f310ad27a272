# The options of a host of microVMs.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  inherit (lib) literalExpression mkOption types;

  hostConfig = config.microvm;

  # The value of `config` is the evaluated system: merging evaluates NixOS with all
  # definitions as modules.
  system =
    vm: name:
    lib.mkOptionType {
      name = "NixOS configuration";
      description = "NixOS configuration";
      merge =
        _: definitions:
        import "${toString vm.nixpkgs}/nixos/lib/eval-config.nix" {
          prefix = [
            "microvm"
            "vms"
            name
            "config"
          ];
          inherit (vm) specialArgs pkgs extraModules;
          system = (if vm.pkgs != null then vm.pkgs else pkgs).stdenv.hostPlatform.system;
          modules = [
            ../microvm
            {
              _file = "the host's defaults for microvm.vms.${name}";
              networking.hostName = lib.mkDefault name;
              microvm.hostRunsTapUp = true;
              microvm.hostStateDir = lib.mkDefault hostConfig.stateDir;
              microvm.virtiofsd = lib.mapAttrs (_: lib.mkDefault) {
                inherit (hostConfig.virtiofsd)
                  inodeFileHandles
                  threadPoolSize
                  group
                  extraArgs
                  ;
              }
              # A VM may use other packages than this host, so the package is inherited only
              # if it is set.
              // lib.optionalAttrs (options.microvm.virtiofsd.package.highestPrio < (lib.mkOptionDefault null).priority) {
                package = lib.mkDefault hostConfig.virtiofsd.package;
              };
            }
          ]
          ++ map (definition: definition.value) definitions;
        };
    };

  vm =
    { config, name, ... }:
    {
      options = {
        config = mkOption {
          type = types.nullOr (system config name);
          default = null;
          description = ''
            The VM's NixOS configuration, as a module. The VM is built and updated
            with the host.
          '';
        };

        evaluatedConfig = mkOption {
          type = types.nullOr types.unspecified;
          default = null;
          description = ''
            An evaluated system, such as the result of `nixpkgs.lib.nixosSystem`, to
            be used instead of `config`.
          '';
        };

        flake = mkOption {
          type = types.nullOr types.path;
          default = null;
          defaultText = literalExpression "flakeInputs.my-infra";
          description = ''
            Flake whose `nixosConfigurations.NAME` is the VM. The VM is installed
            together with the host.
          '';
        };

        updateFlake = mkOption {
          type = types.nullOr types.str;
          default = null;
          defaultText = literalExpression ''"git+file:///etc/nixos"'';
          description = ''
            Flake reference from which `microvm update` updates the VM. If it is set,
            the host installs the VM only if it does not exist yet.
          '';
        };

        nixpkgs = mkOption {
          type = types.path;
          default = if config.pkgs != null then config.pkgs.path else pkgs.path;
          defaultText = literalExpression "pkgs.path";
          description = "Source of NixOS for `config`.";
        };

        pkgs = mkOption {
          type = types.nullOr types.unspecified;
          default = pkgs;
          defaultText = literalExpression "pkgs";
          description = ''
            Package set for `config`, which also determines the architecture of the
            VM. `null` creates a new one.
          '';
        };

        specialArgs = mkOption {
          type = types.attrsOf types.unspecified;
          default = { };
          description = "Special arguments for the modules of `config`.";
        };

        extraModules = mkOption {
          type = types.listOf types.deferredModule;
          default = [ ];
          description = "More modules for `config`.";
        };

        autostart = mkOption {
          type = types.bool;
          default = true;
          description = "Starts the VM at boot, by adding it to `microvm.autostart`.";
        };

        restartIfChanged = mkOption {
          type = types.bool;
          default = config.config != null;
          defaultText = literalExpression "config.config != null";
          description = ''
            Restarts the VM when a rebuild of the host has changed it. Otherwise it
            keeps running, and the change takes effect at its next start.
          '';
        };

        restartOnUpdate = mkOption {
          type = types.bool;
          default = false;
          description = ''
            With `restartIfChanged`, also restarts the VM when only
            `microvm.host.package`, the programs that run it, has changed. Otherwise
            the VM keeps running, and its next start uses the new programs.
          '';
        };
      };
    };
in
{
  imports = [ ../virtiofsd-options.nix ];

  options.microvm = {
    host = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether this system is a host of microVMs.";
      };

      package = mkOption {
        type = types.package;
        default = pkgs.callPackage ../../nix/package.nix { };
        defaultText = literalExpression "the programs of this flake, built with the host's pkgs";
        description = "The programs and units that run the VMs.";
      };

      user = mkOption {
        type = types.str;
        default = "microvm";
        description = "User that the hypervisors run as.";
      };

      group = mkOption {
        type = types.str;
        default = "kvm";
        description = "Group that the hypervisors run as.";
      };

      startupTimeout = mkOption {
        type = types.ints.positive;
        default = 150;
        description = "How many seconds a VM may take until it is ready.";
      };

      stopTimeout = mkOption {
        type = types.ints.positive;
        default = lib.max 150 hostConfig.host.startupTimeout;
        defaultText = literalExpression "lib.max 150 config.microvm.host.startupTimeout";
        description = ''
          How many seconds a VM may take to shut down. The last 15 of them, or the
          second half of a time below 30, are for ending the hypervisor by force; the
          guest has the rest.
        '';
      };

      useNotifySockets = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Requires that the guest of every declared VM reports readiness; the
          evaluation fails for a VM that cannot. Otherwise the option
          `microvm.readiness` of each VM decides.
        '';
      };

      tapScript = mkOption {
        type = types.lines;
        default = "";
        example = literalExpression ''
          '''
            ''${pkgs.iproute2}/bin/ip link set "$id" master br0
          '''
        '';
        description = ''
          Shell commands that run for each tap interface once it is up, with its
          name in `$id`. They run as root, with CAP_NET_ADMIN and no other
          capability.
        '';
      };

      orphans = mkOption {
        type = types.enum [
          "keep"
          "stop"
          "purge"
        ];
        default = "keep";
        description = ''
          What the next switch does with a VM that is no longer declared: `keep`
          leaves it running and logs a message, `stop` shuts it down and keeps its
          data, `purge` also removes its data. VMs that the `microvm` command
          created are never changed.
        '';
      };

      stopOrphans = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether `orphans` defaults to `stop`. A proposal for microvm.nix uses this
          name.
        '';
      };
    };

    stateDir = mkOption {
      type = types.path;
      default = "/var/lib/microvms";
      description = "Directory that holds one directory for each VM.";
    };

    autostart = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = ''
        VMs to start at boot, both declared VMs and those of the `microvm` command.
      '';
    };

    vms = mkOption {
      type = types.attrsOf (types.submodule vm);
      default = { };
      description = "VMs that are built together with the host.";
    };
  };
}
