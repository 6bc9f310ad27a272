# A host of microVMs. The units are those that every distribution gets, from the
# package; what is NixOS's own about them is in drop-ins.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  inherit (import ../../nix/lib.nix { inherit lib; }) cleanPath isBelow;
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

  helpers = [
    "microvm-set-booted"
    "microvm-tap-interfaces"
    "microvm-macvtap-interfaces"
    "microvm-pci-devices"
    "microvm-virtiofsd"
  ];

  # The helpers that a VM's runner has something for; install-microvm makes the
  # same links for VMs that nobody declares.
  helpersOf =
    vm:
    let
      type = wanted: builtins.any ({ type, ... }: type == wanted) vm.interfaces;
    in
    lib.optional (type "tap") "microvm-tap-interfaces"
    ++ lib.optional (type "macvtap") "microvm-macvtap-interfaces"
    ++ lib.optional (builtins.any ({ bus, ... }: bus == "pci") vm.devices) "microvm-pci-devices"
    ++ lib.optional (builtins.any ({ proto, ... }: proto == "virtiofs") vm.shares) "microvm-virtiofsd";

  # What differs from the programs' own defaults.
  settings =
    lib.optionalAttrs (stateDir != "/var/lib/microvms") { MICROVM_STATE_DIR = stateDir; }
    // lib.optionalAttrs (user != "microvm") { MICROVM_USER = user; }
    // lib.optionalAttrs (group != "kvm") { MICROVM_GROUP = group; };

  # The command finds the host's settings by itself, under sudo as well.
  command =
    if settings == { } then
      package
    else
      pkgs.runCommandLocal "microvm-command" { meta.priority = 4; } ''
        mkdir -p $out/bin
        for program in ${package}/bin/*; do
          cat > $out/bin/''${program##*/} <<EOF
        #!${pkgs.runtimeShell}
        ${lib.concatStrings (lib.mapAttrsToList (key: value: "export ${key}=${lib.escapeShellArg value}\n") settings)}
        exec $program "\$@"
        EOF
          chmod +x $out/bin/''${program##*/}
        done
      '';

  # A word of ExecStart=, systemd.service(5): a flake reference may hold anything.
  word =
    text:
    builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ] (
      builtins.toJSON (toString text)
    );

  # Drop-ins for the templates. They never restart a VM: what does is below.
  template =
    extra:
    lib.recursiveUpdate {
      overrideStrategy = "asDropin";
      restartIfChanged = false;
      environment = settings;
    } extra;
  moved = lib.optionalAttrs (stateDir != "/var/lib/microvms");

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
    if cfg.vms.${name}.config == null || !(microvm.binScripts ? tap-up) || taps == [ ] then
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

  templates = {
    "microvm-set-booted@" = template { };
    "microvm-machined@" = template { };
    "microvm-tap-interfaces@" = template {
      environment = lib.optionalAttrs (tapScript != null) { MICROVM_TAP_SCRIPT = "${tapScript}"; };
    };
    "microvm-macvtap-interfaces@" = template { };
    "microvm-pci-devices@" = template {
      path = [ pkgs.kmod ];
    };
    "microvm-virtiofsd@" = template {
      path = [ cfg.virtiofsd.package ];
    };
    "microvm@" = template {
      # The program that stops a VM divides the time that systemd gives it.
      environment.MICROVM_STOP_TIMEOUT = toString cfg.host.stopTimeout;
      # What makes and grows the volumes of any VM, and forwards ports.
      path = [
        pkgs.e2fsprogs
        pkgs.xfsprogs
        pkgs.btrfs-progs
        pkgs.dosfstools
        pkgs.netcat
      ];
      serviceConfig = {
        User = user;
        Group = group;
        TimeoutStartSec = cfg.host.startupTimeout;
        TimeoutStopSec = cfg.host.stopTimeout;
      }
      // moved {
        # As in the unit: what is not there is the wrapper's to tell.
        WorkingDirectory = "-${stateDir}/%i";
        TemporaryFileSystem = [
          ""
          "${stateDir}:ro"
        ];
        BindPaths = [
          ""
          "-${stateDir}/%i"
        ];
        # The empty word above is for both lists, which are one, systemd.exec(5).
        BindReadOnlyPaths = [
          "-${stateDir}/.store"
          "-${stateDir}/.origin/%i"
        ];
      };
    };
  };

  # A declared VM's own drop-ins: a rebuild of the host restarts it where its
  # option says so, and its helpers with it.
  restart = vm: {
    overrideStrategy = "asDropin";
    # The templates already have the programs' PATH.
    path = lib.mkForce [ ];
    serviceConfig.X-RestartIfChanged = [
      ""
      vm.restartIfChanged
    ];
  };

  declared =
    name:
    let
      vm = cfg.vms.${name};
      inherit (guest name)
        microvm
        registers
        runner
        toplevel
        ;
      ownTapScript = tapScriptOf name microvm;
    in
    lib.genAttrs (map (helper: "${helper}@${name}") helpers) (_: restart vm)
    // {
      "microvm-tap-interfaces@${name}" =
        restart vm
        // lib.optionalAttrs (ownTapScript != tapScript) {
          environment.MICROVM_TAP_SCRIPT = "${ownTapScript}";
        };
      "microvm@${name}" = restart vm // {
        # The VM's own content is in no unit; a change of it has to show.
        restartTriggers = [ runner ]
        ++ lib.optional (toplevel != null) toplevel
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
            "microvm-machined@${name}.service"
            "systemd-machined.service"
          ];
        after = lib.optional registers "systemd-machined.service";
      };
      "install-microvm-${name}" = install name;
    };

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
      description = "Install MicroVM ${name}";
      # At boot, and at every switch: what a switch restarts, it starts one by one
      # and in no order, but only after this target.
      wantedBy = [
        "microvms.target"
        "sysinit-reactivation.target"
      ];
      partOf = [ "microvm@${name}.service" ];
      before = map (unit: "${unit}@${name}.service") ([ "microvm" ] ++ helpers);
      after = [
        "local-fs.target"
        "systemd-tmpfiles-setup.service"
      ];
      # A VM with an origin of its own for updates is installed once.
      unitConfig = lib.optionalAttrs (isFlake && vm.updateFlake != null) {
        ConditionPathExists = "!${stateDir}/${name}";
      };
      environment = settings;
      serviceConfig = {
        Type = "oneshot";
        SyslogIdentifier = "install-microvm-${name}";
        ExecStart = lib.concatMapStringsSep " " word (
          [
            "${package}/bin/install-microvm"
            "-p"
            runner
          ]
          ++ origin
          ++ [ name ]
        );
      };
    };

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

    systemd = {
      packages = [ package ];
      services = lib.mkMerge (
        [
          templates
          {
            microvm-orphans = {
              description = "Look after MicroVMs that are no longer declared";
              wantedBy = [ "microvms.target" ];
              after = [
                "local-fs.target"
                "systemd-tmpfiles-setup.service"
              ]
              # Which make the directories that it remembers.
              ++ map (name: "install-microvm-${name}.service") names;
              environment = settings;
              serviceConfig = {
                Type = "oneshot";
                # An update of the programs: the VMs that nobody declares as well.
                ExecStartPre = "-${package}/bin/install-microvm --relink";
                ExecStart = orphans;
              };
            };
          }
        ]
        ++ map declared names
      );

      targets.microvms = {
        wantedBy = [ "multi-user.target" ];
        wants = map (name: "microvm@${name}.service") cfg.autostart;
      };

      tmpfiles.settings."10-microvm" =
        let
          # virtiofsd's helper makes the sources inside a VM's directory itself.
          made = builtins.filter (
            { source, ... }:
            lib.hasPrefix "/" source
            && !(isBelow builtins.storeDir source)
            && !(isBelow stateDir source)
          ) (lib.concatMap (name: (guest name).microvm.shares) names);
        in
        {
          ${stateDir}.d = {
            mode = "0755";
            user = "root";
            group = "root";
          };
          "/run/microvm".d = {
            mode = "0755";
            user = "root";
            group = "root";
          };
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
