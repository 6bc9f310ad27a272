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
      services = tree;
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
