# What the parts of the module share: the declared VMs, the units that each needs, and
# the settings of the programs.
{ config, lib }:

let
  cfg = config.microvm;
  inherit (import ../../nix/lib.nix { inherit lib; }) cleanPath;
  stateDir = cleanPath cfg.stateDir;
  inherit (cfg.host) user group;

  names = builtins.attrNames cfg.vms;

  # The evaluated system of a declared VM.
  evaluated =
    name:
    let
      vm = cfg.vms.${name};
    in
    if vm.flake != null then
      vm.flake.nixosConfigurations.${name}.config
        or (throw "microvm.vms.${name}.flake has no nixosConfigurations.${name}")
    else if vm.evaluatedConfig != null then
      vm.evaluatedConfig.config
    else if vm.config != null then
      vm.config.config
    else
      throw "microvm.vms.${name} has no configuration\nhint: set its config, evaluatedConfig or flake";

  # The parts of it that the host uses. Only the runner is required: the system may be
  # made by another module or another release, or not be NixOS.
  guest =
    name:
    let
      system = evaluated name;
      runner = system.microvm.declaredRunner;
    in
    {
      inherit runner;
      microvm = {
        interfaces = [ ];
        devices = [ ];
        shares = [ ];
        binScripts = { };
      }
      // system.microvm;
      registers = system.microvm.registerWithMachined or runner.registerWithMachined or false;
      reports = runner.supportsNotifySocket or false;
      toplevel = system.system.build.toplevel or null;
    };

  # The table of a VM's units, which the Go programs use as well.
  table = lib.importJSON ../../internal/unit/units.json;
  allTemplates = map ({ name, ... }: name) table.templates;

  # All templates but that of the VM itself and that of its registration.
  helpers = lib.subtractLists [ table.main table.machined ] allTemplates;

  # The helpers that a VM needs. For VMs that are not declared, install-microvm makes
  # the same choice.
  helpersOf =
    vm:
    let
      needed =
        { option, ... }:
        option != null && builtins.any (entry: entry.${option.key} == option.value) vm.${option.list};
    in
    map ({ name, ... }: name) (builtins.filter needed table.templates);

  # The settings that differ from the programs' defaults.
  settings =
    lib.optionalAttrs (stateDir != "/var/lib/microvms") { MICROVM_STATE_DIR = stateDir; }
    // lib.optionalAttrs (user != "microvm") { MICROVM_USER = user; }
    // lib.optionalAttrs (group != "kvm") { MICROVM_GROUP = group; };

  # systemd-tmpfiles-resetup.service sets modes and owners at a switch.
  afterDirectories = [
    "local-fs.target"
    "systemd-tmpfiles-setup.service"
    "systemd-tmpfiles-resetup.service"
  ];
in
{
  inherit
    cfg
    stateDir
    user
    group
    names
    guest
    table
    allTemplates
    helpers
    helpersOf
    settings
    afterDirectories
    ;
  inherit (cfg.host) package;
}
