# The units of the VMs: the templates with the changes of this host, and the drop-ins of
# declared VMs.
{
  config,
  lib,
  options,
  pkgs,
  shared,
}:

let
  hostConfig = config;
  inherit (shared)
    cfg
    package
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
    ;
  inherit (import ../../nix/lib.nix { inherit lib; }) onlyOwn;
  units = import ../../nix/units.nix { inherit lib; };

  # The programs have a constant path, so that an update of them changes no VM's unit
  # and restarts no VM.
  libexec = "/etc/microvm/libexec";

  # A template with the changes of this host.
  template =
    name: extra:
    lib.mkMerge [
      (units.template {
        inherit name;
        replace = [
          [
            "@LIBEXECDIR@"
            "/var/lib/microvms"
          ]
          [
            libexec
            stateDir
          ]
        ];
        without = lib.optionals (name == "microvm@") [
          "TimeoutStartSec"
          "TimeoutStopSec"
        ];
        # A jailed VM sees no other part of /etc.
        more = lib.optionalAttrs (name == "microvm@") { BindReadOnlyPaths = [ "-${libexec}" ]; };
      })
      { environment = settings; }
      extra
    ];

  tapScript =
    if cfg.host.tapScript == "" then
      null
    else
      pkgs.writeShellScript "microvm-tap-script" ''
        set -euo pipefail
        ${cfg.host.tapScript}
      '';

  # For a VM with commands of its own: the host's script runs for each tap, the VM's
  # commands after the last one.
  tapScriptOf =
    name: microvm:
    let
      taps = builtins.filter ({ type, ... }: type == "tap") microvm.interfaces;
    in
    if cfg.vms.${name}.config == null || onlyOwn (microvm.binScripts.tap-up or "") || taps == [ ] then
      tapScript
    else
      pkgs.writeShellScript "microvm-tap-script-${name}" ''
        set -euo pipefail
        ${lib.optionalString (tapScript != null) "${tapScript}"}
        if [ "$id" != ${lib.escapeShellArg (lib.last taps).id} ]; then
          exit
        fi
        ${microvm.binScripts.tap-up}
      '';

  templates = lib.mapAttrs template (lib.genAttrs (map (name: "${name}@") allTemplates) (_: { }) // {
    "microvm-tap-interfaces@".environment = lib.optionalAttrs (tapScript != null) {
      MICROVM_TAP_SCRIPT = "${tapScript}";
    };
    "microvm-pci-devices@".path = [ pkgs.kmod ];
    "microvm-virtiofsd@".path = [ cfg.virtiofsd.package ];
    "microvm@" =
      { config, options, ... }:
      {
        config = {
          # Programs that create and grow volumes, and netcat to forward ports.
          path = [
            pkgs.e2fsprogs
            pkgs.xfsprogs
            pkgs.btrfs-progs
            pkgs.dosfstools
            pkgs.netcat
          ];
          serviceConfig = {
            User = units.asTheirsHere user;
            Group = units.asTheirsHere group;
            CapabilityBoundingSet = lib.mkIf (units.said options.serviceConfig "AmbientCapabilities") (
              units.weakHere (units.allSaid options.serviceConfig "AmbientCapabilities")
            );
            # As in microvm.nix. If another module sets it, it is for both again.
            TimeoutSec = units.asTheirs cfg.host.startupTimeout;
            TimeoutStopSec = lib.mkIf (stopTimeoutIsSet || !(units.said options.serviceConfig "TimeoutSec")) (
              units.weakHere cfg.host.stopTimeout
            );
          };
          environment = stopEnvironment config.serviceConfig;
        };
      };
  });

  stopTimeoutIsSet = options.microvm.host.stopTimeout.highestPrio < (lib.mkOptionDefault null).priority;

  # The program that stops a VM asks systemd for the time that it has. In a jail it has
  # no bus to ask, and assumes 90 s.
  stopTime = service: service.TimeoutStopSec or service.TimeoutSec or null;
  stopEnvironment =
    service:
    let
      time = stopTime service;
    in
    lib.optionalAttrs (builtins.isInt time && time < 90) {
      MICROVM_STOP_TIMEOUT = lib.mkDefault (toString time);
    };

  # The drop-ins of a declared VM. If restartIfChanged is set, a rebuild of the host
  # restarts the VM together with its helpers.
  restart =
    vm:
    { options, ... }:
    {
      config = {
        overrideStrategy = "asDropin";
        # The templates already have the programs' PATH.
        path = lib.mkForce [ ];
        serviceConfig = {
          X-RestartIfChanged = [
            ""
            vm.restartIfChanged
          ];
          # systemd does not start a unit with an ambient capability that is not in its
          # bounding set.
          CapabilityBoundingSet = lib.mkIf (units.said options.serviceConfig "AmbientCapabilities") (
            units.weak (units.allSaid options.serviceConfig "AmbientCapabilities")
          );
          # If the VM has its own RestartSec=, the delay must not grow.
          RestartSteps = lib.mkIf (units.said options.serviceConfig "RestartSec") (units.weak 0);
          RestartMaxDelaySec = lib.mkIf (units.said options.serviceConfig "RestartSec") (units.weak "infinity");
        };
        unitConfig.StartLimitIntervalSec = lib.mkIf (units.said options.unitConfig "StartLimitBurst") (
          units.weak "10s"
        );
      };
    };

  # The content of a VM, without the programs that run it, which are updated
  # separately: a digest of its spec, and its guest's system. For a runner that was
  # overridden, or that another project has built, it is the runner itself.
  triggers =
    name:
    let
      vm = cfg.vms.${name};
      inherit (guest name) runner toplevel;
      ours = runner ? vmDigest && runner.buildCommand or null == runner.asBuilt;
    in
    (if ours then [ runner.vmDigest ] else [ runner ])
    ++ lib.optional (toplevel != null) toplevel
    ++ lib.optional vm.restartOnUpdate package;

  declared =
    name:
    let
      vm = cfg.vms.${name};
      inherit (guest name) microvm registers;
      ownTapScript = tapScriptOf name microvm;
      jailed = microvm.hypervisor or null == "firecracker" && microvm.firecracker.jailer or false;
    in
    lib.genAttrs (map (helper: "${helper}@${name}") helpers) (_: restart vm)
    // {
      "microvm-tap-interfaces@${name}" = lib.mkMerge [
        (restart vm)
        (lib.optionalAttrs (ownTapScript != tapScript) {
          environment.MICROVM_TAP_SCRIPT = "${ownTapScript}";
        })
      ];
      "microvm@${name}" = lib.mkMerge [
        (restart vm)
        (
          { config, ... }:
          {
            config.environment =
              let
                own = stopTime config.serviceConfig;
                time =
                  if own == null && jailed then stopTime hostConfig.systemd.services."microvm@".serviceConfig else own;
              in
              lib.optionalAttrs (builtins.isInt time) { MICROVM_STOP_TIMEOUT = lib.mkDefault (toString time); };
          }
        )
        {
          # No unit contains the VM itself, so a change of it needs a trigger.
          restartTriggers =
            triggers name
            # If the helper's script changes, the helper is restarted, and the VM with it.
            ++ lib.optional (
              ownTapScript != null && builtins.elem "microvm-tap-interfaces" (helpersOf microvm)
            ) ownTapScript;
          # As in the drop-in of install-microvm: with Wants= and PartOf=, a failed helper
          # is started again at each start of the VM; with Requires= it would not be.
          partOf = map (helper: "${helper}@${name}.service") (helpersOf microvm);
          wants =
            map (helper: "${helper}@${name}.service") (helpersOf microvm)
            ++ lib.optionals registers [
              "${table.machined}@${name}.service"
              "systemd-machined.service"
            ];
          after = lib.optional registers "systemd-machined.service";
        }
      ];
    };

  # A VM of microvm.autostart that has not been created yet is skipped, without a
  # failed unit.
  notYet = lib.genAttrs (lib.concatMap (name: [ "microvm@${name}" "microvm-set-booted@${name}" ]) (
    lib.subtractLists names cfg.autostart
  )) (unit: {
    overrideStrategy = lib.mkDefault "asDropin";
    path = lib.mkForce [ ];
    restartIfChanged = lib.mkDefault false;
    unitConfig.ConditionPathExists = [ "${stateDir}/${lib.last (lib.splitString "@" unit)}/current" ];
  });
in
{
  systemd.services = lib.mkMerge (
    [
      templates
      notYet
    ]
    ++ map declared names
  );

  systemd.targets.microvms = {
    description = units.weak "All MicroVMs that start at boot";
    wantedBy = [ "multi-user.target" ];
    wants = map (name: "microvm@${name}.service") cfg.autostart;
  };

  environment.etc."microvm/libexec".source = "${package}/lib/microvm";
}
