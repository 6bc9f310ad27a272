# Where the host module looks for NixOS's own; a guest is evaluated with the stubs.
{
  modules,
  pkgs,
  specialArgs ? { },
  extraModules ? [ ],
  ...
}:
pkgs.lib.evalModules {
  inherit specialArgs;
  modules = [
    ../../../stub-nixos.nix
    { _module.args.pkgs = pkgs; }
  ]
  ++ modules
  ++ extraModules;
}
