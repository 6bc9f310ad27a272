# A host of microVMs. The units are those that every distribution gets, read from
# their files and written as NixOS' own, so that what others say of them is merged as
# with any service of NixOS.
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

  # The system of a declared VM, whichever way it is declared.
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
      throw "microvm.vms.${name} is not defined: set its config, evaluatedConfig or flake.";

  # What the host wants of it. A runner is all that it has to have: it may be
  # another module's, of another release, or no NixOS at all.
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

  # The units of a VM, as all programs know them.
  table = lib.importJSON ../../internal/unit/units.json;
  allTemplates = map ({ name, ... }: name) table.templates;

  # All but the VM's own and what registers it.
  helpers = lib.subtractLists [ table.main table.machined ] allTemplates;

  # The helpers that a VM's runner has something for; install-microvm makes the
  # same links for VMs that nobody declares.
  helpersOf =
    vm:
    let
      needed =
        { option, ... }:
        option != null && builtins.any (entry: entry.${option.key} == option.value) vm.${option.list};
    in
    map ({ name, ... }: name) (builtins.filter needed table.templates);

  # What differs from the programs' own defaults.
  settings =
    lib.optionalAttrs (stateDir != "/var/lib/microvms") { MICROVM_STATE_DIR = stateDir; }
    // lib.optionalAttrs (user != "microvm") { MICROVM_USER = user; }
    // lib.optionalAttrs (group != "kvm") { MICROVM_GROUP = group; };

  # The command finds the host's settings by itself, under sudo as well.
  command = pkgs.callPackage ../../pkgs/microvm-command.nix {
    inherit stateDir package;
    extraSettings = removeAttrs settings [ "MICROVM_STATE_DIR" ];
  };

  # The programs by a path that stays: a new release of them alone changes no VM's
  # unit, and restarts no VM.
  libexec = "/etc/microvm/libexec";

  # A template, and what this host has in it.
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
        # A jailed VM sees nothing else of /etc.
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

  # For a VM that has commands of its own: the host's for each tap, the VM's
  # after the last one.
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
          # What makes and grows the volumes of any VM, and forwards ports.
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
            # As microvm.nix has it; one of somebody else's is for both, again.
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

  # The program that stops a VM divides the time that systemd gives it, which it asks
  # systemd for. A jailed VM has no bus to ask by, and takes 90 s for granted.
  stopTime = service: service.TimeoutStopSec or service.TimeoutSec or null;
  stopEnvironment =
    service:
    let
      time = stopTime service;
    in
    lib.optionalAttrs (builtins.isInt time && time < 90) {
      MICROVM_STOP_TIMEOUT = lib.mkDefault (toString time);
    };

  # A declared VM's own drop-ins: a rebuild of the host restarts it where its
  # option says so, and its helpers with it.
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
          # systemd does not start what is to have a capability that is not in the set.
          CapabilityBoundingSet = lib.mkIf (units.said options.serviceConfig "AmbientCapabilities") (
            units.weak (units.allSaid options.serviceConfig "AmbientCapabilities")
          );
          # A delay of the VM's own is none that the template's let grow.
          RestartSteps = lib.mkIf (units.said options.serviceConfig "RestartSec") (units.weak 0);
          RestartMaxDelaySec = lib.mkIf (units.said options.serviceConfig "RestartSec") (units.weak "infinity");
        };
        unitConfig.StartLimitIntervalSec = lib.mkIf (units.said options.unitConfig "StartLimitBurst") (
          units.weak "10s"
        );
      };
    };

  # What the VM is, without the programs that run it, which have a release of their
  # own: a digest of its spec, and its guest's system. A runner that somebody changed
  # afterwards, or that comes from elsewhere, is what it is.
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
          # The VM's own content is in no unit; a change of it has to show.
          restartTriggers =
            triggers name
            # A changed helper is restarted, and takes the VM down with it.
            ++ lib.optional (
              ownTapScript != null && builtins.elem "microvm-tap-interfaces" (helpersOf microvm)
            ) ownTapScript;
          # As the drop-in of install-microvm has it: a helper that fails is started
          # anew at each try of the VM, which one that is required is not.
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

  # A VM that starts at boot and that nobody has made yet is skipped, and fails
  # nothing.
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
          # A new toplevel makes this unit a new one, so that it runs again.
          lib.optionals (toplevel != null) [
            "--toplevel"
            toplevel
          ];
    in
    {
      description = units.asTheirs "Install MicroVM ${name}";
      # At boot, and at every switch: what a switch restarts, it starts one by one
      # and in no order, but only after this target.
      wantedBy = [
        "microvms.target"
        "sysinit-reactivation.target"
      ];
      partOf = [ "microvm@${name}.service" ];
      before = map (unit: "${unit}@${name}.service") ([ table.main ] ++ helpers);
      after = afterDirectories;
      # A VM with an origin of its own for updates is installed once.
      unitConfig.ConditionPathExists = lib.mkIf (isFlake && vm.updateFlake != null) "!${stateDir}/${name}";
      environment = settings;
      serviceConfig = {
        Type = "oneshot";
        SyslogIdentifier = "install-microvm-${name}";
      };
      # A script, so that others can put commands before it (lib.mkBefore) and behind
      # it, which run in the VM's directory.
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

  # The second one sets modes and owners at a switch.
  afterDirectories = [
    "local-fs.target"
    "systemd-tmpfiles-setup.service"
    "systemd-tmpfiles-resetup.service"
  ];

  # The rules of others that would give the VMs' directories to somebody else than
  # root: tmpfiles goes by the first of two for one directory, and ours come first.
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

  # What a VM's unit is told that takes it away from what the programs go by.
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
          systemd.services."${unit}".serviceConfig.${key} is "${said unit key}": VMs and their directories are ${wanted}'s, and a VM that runs as another one does not start.
          hint: take it out; every VM has a user namespace and a view of the files of its own. For all VMs there is microvm.host.${option}.'';
      capable =
        unit:
        lib.optional
          (said unit "AmbientCapabilities" != "" && !(builtins.elem (said unit "PrivateUsers") [ "no" "false" "" ] && (of unit) ? PrivateUsers))
          ''
            systemd.services."${unit}".serviceConfig.AmbientCapabilities is "${said unit "AmbientCapabilities"}": a hypervisor runs in a user namespace of its own, where that is worth nothing on the host.
            hint: for a port below 1024, forward one above it and lead the other there, with networking.nat or systemd-socket-proxyd. PrivateUsers = false on that VM makes it count, and lets the VM's hypervisor look into all others.'';
    in
    lib.concatMap (unit: account unit "User" user "user" ++ account unit "Group" group "group" ++ capable unit) all;

  # Declared VMs are remembered, so that one that is gone is noticed, by what
  # tells their directory from a later one of the same name. VMs of the microvm
  # command are in no such list.
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
          echo "MicroVM $name is no longer declared and is left as it is; see microvm.host.orphans" ;;
        stop)
          echo "MicroVM $name is no longer declared: stopping it, its data stays in $dir"
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

  # What comes of a VM that is being started: nothing says so of a try that has not
  # ended yet, or that waits for the next one. A guest that reboots is started anew as
  # well, once.
  failing = pkgs.writeShellScript "microvm-failing" ''
    set -euo pipefail
    status=0
    for name in ${lib.escapeShellArgs names}; do
      while true; do
        state= sub= result= main= restarts=0
        # In one look, for they belong together.
        while IFS== read -r key value; do
          case $key in
            ActiveState) state=$value ;;
            SubState) sub=$value ;;
            Result) result=$value ;;
            ExecMainStatus) main=$value ;;
            NRestarts) restarts=$value ;;
          esac
        done < <(systemctl show -p ActiveState,SubState,Result,ExecMainStatus,NRestarts "microvm@$name.service")
        # A switch resets the result of what has failed, and its count.
        case $state:$sub:$result:$main:$restarts in
          active:* | reloading:* | inactive:* | activating:auto-restart*:success:0:*) ;;
          failed:* | activating:auto-restart*:[1-9] | activating:auto-restart*:[1-9][0-9]* | *ing:*:[2-9] | *ing:*:[1-9][0-9]*)
            echo "MicroVM $name keeps failing; see: microvm status $name" >&2
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
            "config and flake exclude each other; a VM that is declared here comes from no flake."
          )
          (refuse (own && vm.updateFlake != null)
            "config and updateFlake exclude each other; a VM that is declared here is updated with the host."
          )
          (refuse (own && vm.evaluatedConfig != null) "config and evaluatedConfig exclude each other; remove one.")
          (refuse (vm.flake != null && vm.evaluatedConfig != null)
            "flake and evaluatedConfig exclude each other; each of them is the VM's whole system, so remove one."
          )
          (refuse (vm.updateFlake != null && vm.flake == null && !own)
            "updateFlake is for a VM that is installed from a flake; set flake, too."
          )
          (refuse (builtins.match "[a-zA-Z0-9:_][a-zA-Z0-9:_.-]*" name == null || builtins.stringLength name > 63)
            "the name is not allowed; use letters, digits, \":\", \"_\", \"-\" and \".\", start with a letter or a digit, and take at most 63."
          )
        ]
        ++ lib.optional cfg.host.useNotifySockets (
          refuse (!(guest name).reports)
            "microvm.host.useNotifySockets is set, and this VM's guest cannot report; set its microvm.vsock.cid, and a hypervisor that can."
        )
      ) names;

    warnings =
      map (
        { rule, ... }: ''
          systemd.tmpfiles has the rule "${rule}", which gives a directory of root's to somebody who runs VMs; root could not go by what is in it, and no VM would start after a boot, so it has no effect.
          hint: take it out; the module makes ${stateDir}, and install-microvm the directories in it.''
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
              description = "Look after MicroVMs that are no longer declared";
              # As the installations: before what a switch starts.
              wantedBy = [
                "microvms.target"
                "sysinit-reactivation.target"
              ];
              # Which make the directories that it remembers.
              after = afterDirectories ++ map (name: "install-microvm-${name}.service") names;
              # A VM that has another name now, and the same tap or disk, starts when
              # the one with the old name is down. One of microvm.nix that starts at
              # boot is taken over before.
              before = lib.concatMap (name: map (unit: "${unit}@${name}.service") ([ table.main ] ++ helpers)) (
                lib.unique (names ++ cfg.autostart)
              );
              environment = settings;
              serviceConfig = {
                Type = "oneshot";
                SyslogIdentifier = "microvm-orphans";
                # An update of the programs: the VMs that nobody declares as well.
                ExecStartPre = "-${package}/bin/install-microvm --relink";
                ExecStart = orphans;
              };
            };
            # A VM that has failed and is tried again is no failed unit, so a switch
            # that starts nothing would end well beside it. A switch starts what active
            # targets want, at its end: before, a VM would fail that it has just mended.
            microvm-failing = lib.mkIf (names != [ ]) {
              description = "Look for declared MicroVMs that keep failing";
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
          # virtiofsd's helper makes the sources inside a VM's directory itself.
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
          # Of two rules for one directory the first counts, and those of
          # systemd.tmpfiles.rules are in 00-nixos.conf.
          "00-microvm" = {
            ${stateDir}.d = ofRoot;
            "/run/microvm".d = ofRoot;
          };
          "10-microvm" = {
            # A host that lost its power has unpinned nothing; at boot no VM runs.
            "${stateDir}/*/booted"."r!" = { };
          }
          // lib.listToAttrs (
            map (
              { source, ... }:
              # With a colon each holds for a directory that is created only.
              lib.nameValuePair (cleanPath source) {
                d = {
                  mode = ":0775";
                  user = ":${user}";
                  group = ":${group}";
                };
              }
            ) made
          );
          # Of those for a directory that is there the last one counts: as
          # install-microvm makes it.
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
    # For people who run a VM by hand as that user; the unit has its own limit.
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

    # For interfaces of type bridge: QEMU runs the helper, and the helper looks
    # up which bridges are open to it. libvirt brings its own.
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
