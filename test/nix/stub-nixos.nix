# As much of NixOS as the modules read: options with NixOS's defaults. What they
# only write is taken as it comes.
{
  lib,
  pkgs,
  config,
  ...
}:

let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  list = option (types.listOf types.unspecified) [ ];
  off = option types.bool false;
  on = option types.bool true;
  value = option types.anything;
  tree = mkOption {
    type = types.attrsOf types.anything;
    default = { };
  };

  # As NixOS has services: a key that anybody says as a list is the list of what all
  # say, and any other may be said once, or by all alike; a script is ExecStart=.
  setting = lib.mkOptionType {
    name = "systemd option";
    merge =
      loc: definitions:
      let
        values = lib.options.getValues definitions;
      in
      if lib.any builtins.isList values then
        lib.concatMap lib.toList values
      else
        lib.options.mergeEqualOption loc definitions;
  };
  service =
    { config, name, ... }:
    {
      options = {
        description = option types.str "";
        documentation = list;
        environment = mkOption {
          type = types.attrsOf (types.nullOr (types.oneOf [ types.str types.path types.package ]));
          default = { };
        };
        path = list;
        script = option types.lines "";
        scriptArgs = option types.str "";
        preStart = option types.lines "";
        serviceConfig = option (types.attrsOf setting) { };
        unitConfig = option (types.attrsOf setting) { };
        restartIfChanged = on;
        restartTriggers = list;
        overrideStrategy = option (types.enum [ "asDropinIfExists" "asDropin" ]) "asDropinIfExists";
        enable = on;
      }
      // lib.genAttrs [
        "after"
        "before"
        "bindsTo"
        "conflicts"
        "onFailure"
        "partOf"
        "requiredBy"
        "requires"
        "requisite"
        "wantedBy"
        "wants"
      ] (_: list);
      config = lib.mkMerge [
        # NixOS' own programs.
        { path = lib.mkAfter [ "/nix/store/of-nixos" ]; }
        (lib.mkIf (config.script != "") {
          serviceConfig.ExecStart = "/nix/store/unit-script-${name}/bin/${name}-start ${config.scriptArgs}";
        })
        (lib.mkIf (config.preStart != "") {
          serviceConfig.ExecStartPre = [ "/nix/store/unit-script-${name}-pre-start/bin/${name}-pre-start" ];
        })
      ];
    };
in
{
  options = {
    assertions = list;
    warnings = list;
    networking.hostName = option types.str "nixos";
    networking.hostId = option (types.nullOr types.str) null;
    networking.useNetworkd = off;
    documentation.enable = on;
    hardware.ksm.enable = off;
    users.users = tree;
    users.groups = tree;
    boot = {
      kernelPackages = value pkgs.linuxPackages;
      kernelParams = list;
      kernelModules = list;
      blacklistedKernelModules = list;
      postBootCommands = option types.lines "";
      initrd.kernelModules = list;
      initrd.availableKernelModules = list;
      initrd.systemd.enable = off;
      initrd.systemd.tpm2.enable = on;
      loader.grub.enable = on;
      loader.systemd-boot.enable = off;
      swraid.enable = on;
    };
    fileSystems = tree;
    environment.etc = tree;
    environment.systemPackages = list;
    nix = {
      enable = on;
      package = value pkgs.nix;
      optimise.automatic = off;
      settings = tree;
    };
    nixpkgs.overlays = list;
    services.openssh.enable = off;
    services.openssh.authorizedKeysFiles = list;
    security = {
      virtualisation.flushL1DataCache = option (types.nullOr types.str) null;
      wrappers = tree;
      pam.loginLimits = list;
    };
    system = {
      switch.enable = on;
      build = tree;
      boot.loader.initrdFile = option types.str "initrd";
      boot.loader.kernelFile = option types.str "bzImage";
    };
    systemd = {
      package = value pkgs.systemd;
      packages = list;
      services = option (types.attrsOf (types.submodule service)) { };
      tmpfiles.rules = list;
      sockets = tree;
      targets = tree;
      generators = tree;
      network.wait-online.enable = on;
      tpm2.enable = on;
      tmpfiles.settings = tree;
      mounts = list;
    };
    virtualisation.libvirtd.enable = off;
  };

  config = {
    _module.freeformType = types.lazyAttrsOf types.anything;
    system.build = {
      toplevel = (pkgs.stub "nixos-system-${config.networking.hostName}" { });
      initialRamdisk = pkgs.initrd;
    };
  };
}
