# A host of microVMs. The units are those of every distribution, read from their files
# and defined as services of NixOS, so that other modules can change them as usual.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  hostConfig = config;
  cfg = config.microvm;
  inherit (import ../../nix/lib.nix { inherit lib; }) cleanPath isBelow onlyOwn;
  units = import ../../nix/units.nix { inherit lib; };
  stateDir = cleanPath cfg.stateDir;
  inherit (cfg.host) package user group;

  names = builtins.attrNames cfg.vms;
  forEach = f: lib.listToAttrs (map f names);

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

  # The command with the host's settings, which then also apply under sudo.
  command = pkgs.callPackage ../../pkgs/microvm-command.nix {
    inherit stateDir package;
    extraSettings = removeAttrs settings [ "MICROVM_STATE_DIR" ];
  };

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
      "install-microvm-${name}" = install name;
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

  # systemd-tmpfiles-resetup.service sets modes and owners at a switch.
  afterDirectories = [
    "local-fs.target"
    "systemd-tmpfiles-setup.service"
    "systemd-tmpfiles-resetup.service"
  ];

  # Rules of other modules that would give the VMs' directories to another user than
  # root. systemd-tmpfiles uses the first of two rules for a directory, and those of this
  # module come first.
  foreignRules =
    let
      ofText =
        text:
        let
          words = builtins.filter (word: word != "") (lib.splitString " " text);
          at = n: if builtins.length words > n then builtins.elemAt words n else "-";
        in
        {
          type = at 0;
          path = at 1;
          owner = at 3;
          rule = text;
        };
      ofSettings = lib.concatLists (
        lib.mapAttrsToList (
          file: paths:
          lib.optionals (!(builtins.elem file ourRules)) (
            lib.concatLists (
              lib.mapAttrsToList (
                path: types:
                lib.mapAttrsToList (type: rule: {
                  inherit type path;
                  owner = rule.user or "-";
                  rule = "${type} ${path} ${rule.mode or "-"} ${rule.user or "-"} ${rule.group or "-"}";
                }) types
              ) paths
            )
          )
        ) hostConfig.systemd.tmpfiles.settings
      );
    in
    builtins.filter (
      {
        type,
        path,
        owner,
        ...
      }:
      builtins.match "[dDevqQzZ].*" type != null
      && builtins.elem (cleanPath path) ([ stateDir ] ++ map (name: "${stateDir}/${name}") names)
      && !(builtins.elem owner [ "" "-" "root" "0" ":root" ])
    ) (map ofText hostConfig.systemd.tmpfiles.rules ++ ofSettings);
  ourRules = [
    "00-microvm"
    "10-microvm"
    "zz-microvm"
  ];

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

  # The declared VMs are recorded, so that one that is no longer declared is found. The
  # record has the identity of each VM's directory, which distinguishes it from a later
  # one of the same name. VMs of the microvm command are not recorded.
  orphans = pkgs.writeShellScript "microvm-orphans" ''
    set -euo pipefail
    stateDir=${lib.escapeShellArg stateDir}
    record=$stateDir/.declared
    identity() { stat -c %i.%W -- "$stateDir/$1" 2>/dev/null || echo none; }
    declare -A declared=(${lib.concatMapStringsSep " " (name: "[${lib.escapeShellArg name}]=1") names})
    keep=()
    mapfile -t before < <(cat "$record" 2>/dev/null || true)
    for entry in "''${before[@]}"; do
      name=''${entry% *} dir=$stateDir/''${entry% *}
      if [ -z "$entry" ] || [ -n "''${declared[$name]-}" ] || [ ! -d "$dir" ] || [ "$entry" != "$name $(identity "$name")" ]; then
        continue
      fi
      case ${cfg.host.orphans} in
        keep)
          echo "MicroVM $name is no longer declared and is left as it is (microvm.host.orphans)" ;;
        stop)
          echo "MicroVM $name is no longer declared: stopping it and keeping its data in $dir"
          systemctl stop "microvm@$name.service" ;;
        purge)
          echo "MicroVM $name is no longer declared: stopping it and removing $dir"
          systemctl stop "microvm@$name.service"
          ${package}/bin/microvm rm --yes "$name"
          continue ;;
      esac
      keep+=("$entry")
    done
    for name in "''${!declared[@]}"; do
      keep+=("$name $(identity "$name")")
    done
    printf '%s\n' "''${keep[@]}" > "$record.new"
    mv "$record.new" "$record"
  '';

  # Reports declared VMs that keep failing. It waits for starts that have not ended, and
  # for one restart, which may be that of a guest that reboots.
  failing = pkgs.writeShellScript "microvm-failing" ''
    set -euo pipefail
    status=0
    for name in ${lib.escapeShellArgs names}; do
      while true; do
        state= sub= result= main= restarts=0
        # All in one call, so that they are consistent.
        while IFS== read -r key value; do
          case $key in
            ActiveState) state=$value ;;
            SubState) sub=$value ;;
            Result) result=$value ;;
            ExecMainStatus) main=$value ;;
            NRestarts) restarts=$value ;;
          esac
        done < <(systemctl show -p ActiveState,SubState,Result,ExecMainStatus,NRestarts "microvm@$name.service")
        # A switch resets the result and the count of failed units.
        case $state:$sub:$result:$main:$restarts in
          active:* | reloading:* | inactive:* | activating:auto-restart*:success:0:*) ;;
          failed:* | activating:auto-restart*:[1-9] | activating:auto-restart*:[1-9][0-9]* | *ing:*:[2-9] | *ing:*:[1-9][0-9]*)
            echo "MicroVM $name keeps failing" >&2
            echo "hint: run: microvm status $name" >&2
            status=1 ;;
          *ing:*)
            if [ "$SECONDS" -lt ${toString cfg.host.startupTimeout} ]; then
              sleep 0.1
              continue
            fi ;;
        esac
        break
      done
    done
    exit "$status"
  '';
in
{
  imports = [ ./options.nix ];

  config = lib.mkIf cfg.host.enable {
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

    warnings =
      map (
        { rule, ... }: ''
          systemd.tmpfiles has the rule "${rule}", which would give a directory owned by root to another user; root could not trust its content, and no VM would start after a boot, so the rule has no effect
          hint: remove it; the module creates ${stateDir}, and install-microvm creates the directories in it''
      ) foreignRules
      ++ unitWarnings;

    environment.etc."microvm/libexec".source = "${package}/lib/microvm";

    systemd = {
      services = lib.mkMerge (
        [
          templates
          notYet
          {
            microvm-orphans = {
              description = "Handle MicroVMs that are no longer declared";
              # As with the installations: before the units that a switch starts.
              wantedBy = [
                "microvms.target"
                "sysinit-reactivation.target"
              ];
              # They create the directories that are recorded.
              after = afterDirectories ++ map (name: "install-microvm-${name}.service") names;
              # A renamed VM with the same tap or disk starts when the one with the old
              # name is down. A VM of microvm.nix that starts at boot is taken over before.
              before = lib.concatMap (name: map (unit: "${unit}@${name}.service") ([ table.main ] ++ helpers)) (
                lib.unique (names ++ cfg.autostart)
              );
              environment = settings;
              serviceConfig = {
                Type = "oneshot";
                SyslogIdentifier = "microvm-orphans";
                # After an update of the programs, also for VMs that are not declared.
                ExecStartPre = "-${package}/bin/install-microvm --relink";
                ExecStart = orphans;
              };
            };
            # A unit that waits for its next restart is not a failed unit, so a switch
            # would succeed although a VM keeps failing. A switch starts this unit, as one
            # that an active target wants, at its end: earlier, it would report VMs that the
            # switch is about to fix.
            microvm-failing = lib.mkIf (names != [ ]) {
              description = "Check for declared MicroVMs that keep failing";
              wantedBy = [ "microvms.target" ];
              after = map (name: "microvm@${name}.service") names;
              serviceConfig = {
                Type = "oneshot";
                SyslogIdentifier = "microvm-failing";
                ExecStart = failing;
              };
            };
          }
        ]
        ++ map declared names
      );

      targets.microvms = {
        description = units.weak "All MicroVMs that start at boot";
        wantedBy = [ "multi-user.target" ];
        wants = map (name: "microvm@${name}.service") cfg.autostart;
      };

      tmpfiles.settings =
        let
          # virtiofsd's helper creates the sources inside a VM's directory.
          made = builtins.filter (
            { source, ... }:
            lib.hasPrefix "/" source
            && !(isBelow builtins.storeDir source)
            && !(isBelow stateDir source)
          ) (lib.concatMap (name: (guest name).microvm.shares) names);
          ofRoot = {
            mode = "0755";
            user = "root";
            group = "root";
          };
        in
        {
          # systemd-tmpfiles uses the first of two rules for a directory, and those of
          # systemd.tmpfiles.rules are in 00-nixos.conf.
          "00-microvm" = {
            ${stateDir}.d = ofRoot;
            "/run/microvm".d = ofRoot;
          };
          "10-microvm" = {
            # After a power loss the pins are still there; at boot no VM runs.
            "${stateDir}/*/booted"."r!" = { };
          }
          // lib.listToAttrs (
            map (
              { source, ... }:
              # A colon means: only if the directory is created.
              lib.nameValuePair (cleanPath source) {
                d = {
                  mode = ":0775";
                  user = ":${user}";
                  group = ":${group}";
                };
              }
            ) made
          );
          # For an existing directory the last rule is used: the same owner and mode as by
          # install-microvm.
          "zz-microvm" = lib.listToAttrs (
            map (
              name:
              lib.nameValuePair "${stateDir}/${name}" {
                z = {
                  mode = "1775";
                  user = "root";
                  inherit group;
                };
              }
            ) names
          );
        };
    };

    microvm.host.orphans = lib.mkIf cfg.host.stopOrphans (lib.mkDefault "stop");
    microvm.autostart = builtins.filter (name: cfg.vms.${name}.autostart) names;

    users.users.${user} = {
      isSystemUser = true;
      inherit group;
    };
    users.groups.${group} = { };
    # For VMs that are run manually as that user; the unit has its own limit.
    security.pam.loginLimits =
      map
        (type: {
          domain = user;
          item = "memlock";
          inherit type;
          value = "infinity";
        })
        [
          "hard"
          "soft"
        ];

    boot.kernelModules = [
      "tun"
      "tap"
      "vhost_net"
      "vhost_vsock"
    ];
    hardware.ksm.enable = lib.mkDefault true;

    # For interfaces of type bridge: QEMU runs the helper, which reads bridge.conf.
    # libvirt has its own wrapper.
    security.wrappers.qemu-bridge-helper = lib.mkIf (!config.virtualisation.libvirtd.enable) {
      source = "${pkgs.qemu-utils}/libexec/qemu-bridge-helper";
      owner = "root";
      group = "root";
      capabilities = "cap_net_admin+ep";
    };
    environment.etc."qemu/bridge.conf".text = lib.mkDefault "allow all\n";

    environment.systemPackages = [ command ];
  };
}
