# Where microvm.nix has it.
{
  microvmConfig,
  hypervisorConfig,
  lib,
}:
(import ../nix/lib.nix { inherit lib; }).makeMacvtap { inherit microvmConfig hypervisorConfig; }
