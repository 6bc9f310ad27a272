# microvm.nix has a module at this path, which configurations use in imports and
# disabledModules. Here the programs do its work.
{ }
