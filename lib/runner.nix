# Where microvm.nix has it.
import ../nix/runner.nix
