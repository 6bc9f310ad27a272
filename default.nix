# For configurations without flakes:
#   let microvm = import (fetchTarball "…") { }; in { imports = [ microvm.nixosModules.host ]; }
{
  pkgs ? import <nixpkgs> { },
}:

rec {
  nixosModules = {
    microvm = ./nixos-modules/microvm;
    host = ./nixos-modules/host;
    microvm-options = ./nixos-modules/microvm/options.nix;
  };

  lib = import ./nix/lib.nix { inherit (pkgs) lib; };

  overlay = import ./nix/overlay.nix { };

  microvm = pkgs.callPackage ./nix/package.nix { };
  doc = pkgs.callPackage ./nix/doc.nix { };
}
