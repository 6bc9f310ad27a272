# An overlay with the flake's packages.
{
  # Source of Spectrum, whose Cloud Hypervisor is patched for vhost-user GPUs.
  spectrum ? null,
}:

final: super:
{
  microvm = final.callPackage ./package.nix { };
}
// (
  if spectrum == null then
    { }
  else
    {
      cloud-hypervisor-graphics = import "${spectrum}/pkgs/cloud-hypervisor" { inherit final super; };
    }
)
