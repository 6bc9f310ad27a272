# microvm.nix has a module here, which others name in imports and disabledModules;
# what it does is done by the programs.
{ }
