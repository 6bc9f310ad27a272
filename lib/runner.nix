# The path of this file in microvm.nix.
import ../nix/runner.nix
