# A program that builds a flake's system as a VM, with this flake's packages and the
# settings of flake-runner.nix. Both files are meant to be copied and changed.
{
  self,
  stdenv,
  nix,
  writeShellScriptBin,
}:

writeShellScriptBin "build-microvm" ''
  set -euo pipefail
  if [ $# -lt 1 ] || [ "''${1#*#}" = "$1" ]; then
    echo "usage: build-microvm FLAKE#NAME [NIX-BUILD-OPTION]…" >&2
    exit 2
  fi
  flake=''${1%%#*} name=''${1#*#}
  shift
  echo "building a runner for $name of $flake"
  # Impure, because the flake is only known at run time.
  exec ${nix}/bin/nix --extra-experimental-features 'nix-command flakes' build --impure "$@" \
    --file ${./flake-runner.nix} \
    --argstr self ${self} --argstr system ${stdenv.hostPlatform.system} \
    --argstr flake "$flake" --argstr name "$name"
''
