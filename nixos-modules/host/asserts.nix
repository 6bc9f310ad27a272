# Assertions about declared VMs, and warnings about settings of their units.
{
  config,
  lib,
  shared,
  ...
}:

let
  hostConfig = config;
  inherit (shared)
    cfg
    user
    group
    names
    guest
    ;

  # Warnings about settings of a VM's unit that the programs cannot work with.
  unitWarnings =
    let
      services = hostConfig.systemd.services;
      of = unit: services.${unit}.serviceConfig;
      said = unit: key: toString (lib.toList ((of unit).${key} or ""));
      instances = map (name: "microvm@${name}") names;
      all = [ "microvm@" ] ++ instances;
      account =
        unit: key: wanted: option:
        lib.optional (!(builtins.elem (said unit key) [ "" wanted ])) ''
          systemd.services."${unit}".serviceConfig.${key} is "${said unit key}", but the VMs' directories belong to ${wanted}, so this VM will not start
          hint: remove it, as every VM has its own user namespace and view of files; to change it for all VMs, set microvm.host.${option}'';
      capable =
        unit:
        lib.optional
          (said unit "AmbientCapabilities" != "" && !(builtins.elem (said unit "PrivateUsers") [ "no" "false" "" ] && (of unit) ? PrivateUsers))
          ''
            systemd.services."${unit}".serviceConfig.AmbientCapabilities is "${said unit "AmbientCapabilities"}", but a hypervisor runs in its own user namespace, where capabilities have no effect on the host
            hint: for a port below 1024, forward a higher port and redirect the lower one to it, with networking.nat or systemd-socket-proxyd; PrivateUsers = false makes the capabilities effective, but lets the VM's hypervisor read the memory of all others'';
    in
    lib.concatMap (unit: account unit "User" user "user" ++ account unit "Group" group "group" ++ capable unit) all;
in
{
  assertions =
    lib.concatMap (
      name:
      let
        vm = cfg.vms.${name};
        refuse = wrong: message: {
          assertion = !wrong;
          message = "microvm.vms.${name}: ${message}";
        };
        own = vm.config != null;
      in
      [
        (refuse (own && vm.flake != null)
          "config and flake are mutually exclusive"
        )
        (refuse (own && vm.updateFlake != null)
          "config and updateFlake are mutually exclusive, as a VM with config is updated with the host"
        )
        (refuse (own && vm.evaluatedConfig != null) "config and evaluatedConfig are mutually exclusive")
        (refuse (vm.flake != null && vm.evaluatedConfig != null)
          "flake and evaluatedConfig are mutually exclusive"
        )
        (refuse (vm.updateFlake != null && vm.flake == null && !own)
          "updateFlake requires flake"
        )
        (refuse (builtins.match "[a-zA-Z0-9:_][a-zA-Z0-9:_.-]*" name == null || builtins.stringLength name > 63)
          "invalid name: must have at most 63 letters, digits, \":\", \"_\", \"-\" and \".\", and not start with \"-\" or \".\""
        )
      ]
      ++ lib.optional cfg.host.useNotifySockets (
        refuse (!(guest name).reports)
          "microvm.host.useNotifySockets is set, but this VM's guest cannot report readiness\nhint: set its microvm.vsock.cid, and use a hypervisor that supports it"
      )
    ) names;

  warnings = unitWarnings;
}
