# The path of this file in microvm.nix.
import ../nix/build-microvm.nix
