# The path of microvm.nix's functions.
import ../nix/lib.nix
