# Where microvm.nix has it.
import ../nix/build-microvm.nix
