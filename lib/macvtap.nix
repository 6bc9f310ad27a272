# The path of this file in microvm.nix.
{
  microvmConfig,
  hypervisorConfig,
  lib,
}:
(import ../nix/lib.nix { inherit lib; }).makeMacvtap { inherit microvmConfig hypervisorConfig; }
