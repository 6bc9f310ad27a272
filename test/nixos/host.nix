# A NixOS host that boots in a container, over a Debian root.
args:

let
  pkgs = import ./pkgs.nix (removeAttrs args [ "upstream" ]);

  host =
    modules:
    import (args.nixpkgs + "/nixos/lib/eval-config.nix") {
      inherit pkgs;
      inherit (pkgs) system lib;
      modules = modules ++ [
        common
        {
          boot.isContainer = true;
          networking.hostName = "host";
          # A container's /sys is read-only.
          hardware.ksm.enable = pkgs.lib.mkForce false;
        }
      ];
    };

  # What hosts and guests do without.
  common =
    { lib, ... }:
    {
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
  inherit common host pkgs;
}
