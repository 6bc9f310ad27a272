# A guest without flakes:
#   nix-build examples/no-flake-microvm.nix && result/bin/microvm-run
{
  nixpkgs ? <nixpkgs>,
  system ? builtins.currentSystem,
}:

let
  nixos = import "${toString nixpkgs}/nixos/lib/eval-config.nix" {
    inherit system;
    modules = [
      ../nixos-modules/microvm
      {
        networking.hostName = "no-flake";
        system.stateVersion = "25.05";
        users.users.root.password = "";
        microvm = {
          hypervisor = "qemu";
          shares = [
            {
              tag = "ro-store";
              source = "/nix/store";
              mountPoint = "/nix/.ro-store";
            }
          ];
        };
      }
    ];
  };
in
nixos.config.microvm.declaredRunner
