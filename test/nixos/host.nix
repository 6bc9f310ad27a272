# A NixOS host that boots in a container, over a Debian root.
args:

let
  pkgs = import ./pkgs.nix (
    removeAttrs args [
      "upstream"
      "release"
      "case"
    ]
  );
  inherit (pkgs) lib;

  host =
    modules:
    import (args.nixpkgs + "/nixos/lib/eval-config.nix") {
      inherit pkgs;
      inherit (pkgs) system lib;
      modules = modules ++ [
        common
        switch
        {
          boot.isContainer = true;
          networking.hostName = "host";
          # A container's /sys is read-only.
          hardware.ksm.enable = lib.mkForce false;
        }
      ];
    };

  # NixOS has had two, and then only this one.
  switch =
    { options, ... }:
    lib.optionalAttrs (args.switcher != null) {
      system.switch = lib.optionalAttrs (options.system.switch.enableNg.visible or (options.system.switch ? enableNg)) {
        enable = false;
        enableNg = true;
      };
    };

  # Options that microvm.nix's module sets and an older NixOS does not have yet.
  older = lib.optionalAttrs (!builtins.pathExists (args.nixpkgs + "/nixos/modules/system/boot/systemd/tpm2.nix")) {
    options.boot.initrd.systemd.tpm2.enable = lib.mkEnableOption "nothing";
    options.systemd.tpm2.enable = lib.mkEnableOption "nothing";
  };

  # What hosts and guests do without.
  common = {
    imports = [ older ];
    config = without;
  };
  without = {
    networking.useDHCP = false;
    networking.resolvconf.enable = false;
    networking.networkmanager.enable = false;
    networking.firewall.enable = false;
    nix.enable = false;
    documentation.enable = false;
    security.sudo.enable = false;
    services.nscd.enable = false;
    system.nssModules = lib.mkForce [ ];
    system.stateVersion = "24.11";
    users.mutableUsers = false;
    users.allowNoPasswordLogin = true;
    environment.defaultPackages = [ ];
    environment.stub-ld.enable = false;
    fonts.fontconfig.enable = false;
    xdg.autostart.enable = false;
    xdg.icons.enable = false;
    xdg.mime.enable = false;
    xdg.sounds.enable = false;
    xdg.menus.enable = false;
    programs.command-not-found.enable = false;
    programs.nano.enable = false;
    services.logrotate.enable = false;
    services.lvm.enable = false;
    boot.enableContainers = false;
    # They would have to be compiled.
    security.wrappers = lib.mkForce { };
    # Where null stands, activation removes the loader of Debian's programs.
    environment.ldso = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
    i18n.defaultLocale = "C.UTF-8";
    i18n.supportedLocales = [ ];
  };
in
{
  inherit
    common
    host
    older
    pkgs
    switch
    without
    ;
}
