# A flake's system as a runner package, for build-microvm.nix: with this flake's
# packages and settings that work on any host. nix build reads this file instead of a
# flake.
{ self, system, flake, name }:
let
  inherit (builtins.getFlake self) inputs lib nixosModules;
  pkgs = inputs.nixpkgs.legacyPackages.${system};
  original = (builtins.getFlake flake).nixosConfigurations.${name};
  extended = original.extendModules {
    modules = [
      {
        microvm = builtins.mapAttrs (_: pkgs.lib.mkForce) {
          hypervisor = "qemu";
          interfaces = [ { type = "user"; id = "n"; mac = "02:00:00:00:00:01"; } ];
          shares = [ {
            proto = "9p";
            tag = "ro-store";
            source = "/nix/store";
            mountPoint = "/nix/.ro-store";
          } ];
          volumes = [ ];
          writableStoreOverlay = null;
          # The hypervisor and the programs are those of this flake.
          vmHostPackages = pkgs;
        };
      }
    ]
    ++ pkgs.lib.optional (! original.config ? microvm) nixosModules.microvm;
  };
  inherit (extended) config;
in
lib.buildRunner {
  # The guest's own package set.
  inherit (extended._module.args) pkgs;
  microvmConfig = config.microvm // { inherit (config.networking) hostName; };
  inherit (config.system.build) toplevel;
}
