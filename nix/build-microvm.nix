# Builds a flake's system as a VM with this flake's packages and a few settings
# that run anywhere: QEMU, a user network, the host's store. A system that is no
# microVM yet becomes one. Meant to be copied and changed.
{
  self,
  stdenv,
  nix,
  writeShellScriptBin,
}:

let
  # Read by nix build in place of a flake of its own.
  expression = builtins.toFile "build-microvm.nix" ''
    { self, system, flake, name }:
    let
      inherit (builtins.getFlake self) inputs lib nixosModules;
      pkgs = inputs.nixpkgs.legacyPackages.''${system};
      original = (builtins.getFlake flake).nixosConfigurations.''${name};
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
            };
          }
        ]
        ++ pkgs.lib.optional (! original.config ? microvm) nixosModules.microvm;
      };
      inherit (extended) config;
    in
    lib.buildRunner {
      inherit pkgs;
      microvmConfig = config.microvm // { inherit (config.networking) hostName; };
      inherit (config.system.build) toplevel;
    }
  '';
in
writeShellScriptBin "build-microvm" ''
  set -euo pipefail
  if [ $# -lt 1 ] || [ "''${1#*#}" = "$1" ]; then
    echo "usage: build-microvm FLAKE#NAME [OPTION OF nix build]…" >&2
    exit 2
  fi
  flake=''${1%%#*} name=''${1#*#}
  shift
  echo "building a runner for $name of $flake"
  # Impure, because the flake is named at run time.
  exec ${nix}/bin/nix --extra-experimental-features 'nix-command flakes' build --impure "$@" \
    --file ${expression} \
    --argstr self ${self} --argstr system ${stdenv.hostPlatform.system} \
    --argstr flake "$flake" --argstr name "$name"
''
