# Where microvm.nix has its functions, for those who import them by this path.
import ../nix/lib.nix
