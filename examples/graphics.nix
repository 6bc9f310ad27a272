# Programs of nixpkgs in a guest, whose display is a window of this desktop:
#   nix run .#graphics -- firefox
#   nix run .#graphics -- --tap tap0 firefox gimp
# One program has the display to itself; of several, each is started from the
# terminal that is shown.
{
  self,
  nixpkgs,
  system,
  # Names of packages, separated by spaces.
  packages ? "",
  # A tap interface that is there, instead of QEMU's user network.
  tapInterface ? "",
}:

let
  flake = builtins.getFlake self;
  inherit ((builtins.getFlake nixpkgs)) lib;
in
lib.nixosSystem {
  inherit system;
  modules = [
    flake.nixosModules.microvm
    (
      { pkgs, ... }:
      let
        wanted =
          map (name: lib.attrByPath (lib.splitString "." name) (throw "nixpkgs has no package ${name}") pkgs)
            (builtins.filter (name: name != "") (lib.splitString " " packages));
        shown = if builtins.length wanted == 1 then builtins.head wanted else pkgs.foot;
      in
      {
        networking.hostName = "graphics";
        system.stateVersion = lib.trivial.release;

        microvm = {
          hypervisor = "qemu";
          mem = 2047;
          graphics.enable = true;
          interfaces = [
            {
              type = if tapInterface == "" then "user" else "tap";
              id = if tapInterface == "" then "n" else tapInterface;
              mac = "02:00:00:04:00:01";
            }
          ];
        };

        # A display server with one window, which fills it.
        services.cage = {
          enable = true;
          user = "user";
          program = lib.getExe shown;
          # Where the host's GPU is not passed on, the guest's CPU draws.
          environment.WLR_RENDERER_ALLOW_SOFTWARE = "1";
        };

        services.getty.autologinUser = "user";
        users.users.user = {
          isNormalUser = true;
          password = "";
          extraGroups = [
            "wheel"
            "video"
          ];
        };
        security.sudo.wheelNeedsPassword = false;
        hardware.graphics.enable = true;
        environment.systemPackages = wanted;
      }
    )
  ];
}
