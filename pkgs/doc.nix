# Where microvm.nix has it.
import ../nix/doc.nix
