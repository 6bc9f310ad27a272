# The units that install the declared VMs.
{ lib, shared, ... }:

let
  inherit (shared)
    cfg
    package
    stateDir
    guest
    table
    helpers
    settings
    afterDirectories
    ;
  units = import ../../nix/units.nix { inherit lib; };

  install =
    name:
    let
      vm = cfg.vms.${name};
      inherit (guest name) runner toplevel;
      isFlake = vm.flake != null;
      origin =
        if isFlake then
          [
            "--flake"
            (if vm.updateFlake != null then vm.updateFlake else vm.flake)
          ]
        else
          # With a new toplevel this unit changes, so that it runs again.
          lib.optionals (toplevel != null) [
            "--toplevel"
            toplevel
          ];
    in
    {
      description = units.asTheirs "Install MicroVM ${name}";
      # At boot and at every switch. A switch restarts units one by one, in no order, but
      # only after sysinit-reactivation.target.
      wantedBy = [
        "microvms.target"
        "sysinit-reactivation.target"
      ];
      partOf = [ "microvm@${name}.service" ];
      before = map (unit: "${unit}@${name}.service") ([ table.main ] ++ helpers);
      after = afterDirectories;
      # A VM with updateFlake is installed only once.
      unitConfig.ConditionPathExists = lib.mkIf (isFlake && vm.updateFlake != null) "!${stateDir}/${name}";
      environment = settings;
      serviceConfig = {
        Type = "oneshot";
        SyslogIdentifier = "install-microvm-${name}";
      };
      # A script, so that other modules can add commands before it (lib.mkBefore) and
      # after it; those run in the VM's directory.
      script = ''
        ${lib.escapeShellArgs (
          map toString (
            [
              "${package}/bin/install-microvm"
              "-p"
              runner
            ]
            ++ origin
            ++ [ name ]
          )
        )}
        cd ${lib.escapeShellArg "${stateDir}/${name}"}
      '';
    };
in
{
  systemd.services = lib.mapAttrs' (
    name: _: lib.nameValuePair "install-microvm-${name}" (install name)
  ) cfg.vms;
}
