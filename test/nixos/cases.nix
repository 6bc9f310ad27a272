# The systems and runners of a file of configurations, a function of what a flake has:
#
#   { self, inputs, microvm, nixpkgs, harness, lib, pkgs, … }: { nixosConfigurations.NAME = …; }
#
# `microvm` is this flake, `inputs.microvm` its path, `harness.host` a host's minimum.
# A value that it has in `values` and that cannot be evaluated is warned of.
args:

let
  inherit (import ./host.nix args)
    older
    pkgs
    switch
    without
    ;
  inherit (pkgs) lib;

  # A configuration's own definitions are stronger. What a reduced one has in its
  # systemPackages is built, and need not be a package.
  standIns = {
    imports = [
      older
      (
        { config, ... }:
        {
          system.path = lib.mkForce (
            pkgs.linkFarm "system-path" (
              lib.imap0 (number: path: {
                name = toString number;
                inherit path;
              }) config.environment.systemPackages
            )
          );
        }
      )
      (lib.mapAttrsRecursiveCond (value: !(value ? _type)) (
        _: value: if value ? _type then value else lib.mkOverride 900 value
      ) without)
    ];
  };
  ofGuests =
    { lib, ... }:
    {
      options.microvm.vms = lib.mkOption {
        type = lib.types.attrsOf (lib.types.submodule { extraModules = [ standIns ]; });
      };
    };

  evaluate = import (args.nixpkgs + "/nixos/lib/eval-config.nix");
  nixosSystem =
    given:
    let
      with' =
        modules:
        evaluate (
          {
            inherit lib;
            system = null;
          }
          // given
          // {
            modules =
              given.modules
              ++ [
                standIns
                # Not the argument, so that a configuration can have overlays.
                { nixpkgs.pkgs = lib.mkDefault pkgs; }
              ]
              ++ modules;
          }
        );
      first = with' [ ];
    in
    if first.options ? microvm && first.options.microvm ? vms then
      with' [
        ofGuests
        switch
      ]
    else
      first;

  nixpkgs = {
    lib = lib // {
      inherit nixosSystem;
    };
    legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (_: pkgs);
    outPath = toString args.nixpkgs;
  };
  microvm =
    (import ../../flake.nix).outputs {
      self = microvm;
      inherit nixpkgs;
      spectrum = ./spectrum;
    }
    // {
      outPath = toString ../..;
      inputs = { inherit nixpkgs; };
    };

  self = {
    inputs = { inherit nixpkgs microvm; };
    outPath = toString (builtins.dirOf args.case);
  };
  result = import args.case {
    inherit
      self
      microvm
      nixpkgs
      lib
      pkgs
      ;
    inputs = { inherit self nixpkgs microvm; };
    harness.host = {
      boot.isContainer = true;
      networking.hostName = "host";
      nix.enable = false;
      documentation.enable = false;
      system.stateVersion = "24.11";
    };
  };

  runnerOf =
    name: vm:
    if vm.config != null then
      vm.config.config.microvm.declaredRunner
    else if vm.evaluatedConfig != null then
      vm.evaluatedConfig.config.microvm.declaredRunner
    else
      vm.flake.nixosConfigurations.${name}.config.microvm.declaredRunner;

  parts =
    name:
    { config, ... }:
    let
      microvm = config.microvm or { };
    in
    {
      "${name}: system" = config.system.build.toplevel;
    }
    // lib.optionalAttrs (microvm.guest.enable or false && microvm ? declaredRunner) {
      "${name}: runner" = microvm.declaredRunner;
    }
    // lib.mapAttrs' (vm: value: lib.nameValuePair "${name}: runner of ${vm}" (runnerOf vm value)) (microvm.vms or { });

  values = lib.mapAttrsToList (
    name: value:
    lib.warnIf (!(builtins.tryEval (builtins.deepSeq value null)).success) "the value ${name} cannot be evaluated" null
  ) (result.values or { });
in
builtins.deepSeq values (
  pkgs.linkFarm "configurations" (
    lib.mapAttrsToList (name: path: { inherit name path; }) (lib.concatMapAttrs parts result.nixosConfigurations)
  )
)
