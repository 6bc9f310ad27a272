# Programs of nixpkgs in a guest whose display is a window on this desktop:
#   nix run .#graphics -- firefox
#   nix run .#graphics -- --tap tap0 firefox gimp
# A single program fills the display. With several, a terminal is shown, from which each
# can be started.
{
  self,
  nixpkgs,
  system,
  # Names of packages, separated by spaces.
  packages ? "",
  # An existing tap interface to use instead of QEMU's user network.
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
          map (name: lib.attrByPath (lib.splitString "." name) (throw "package \"${name}\" not found in nixpkgs") pkgs)
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

        # A display server that shows one window in full screen.
        services.cage = {
          enable = true;
          user = "user";
          program = lib.getExe shown;
          # Without access to the host's GPU, the guest's CPU renders.
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
