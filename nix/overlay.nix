final: _prev: {
  microvm = final.callPackage ./package.nix { };
}
