# The unit that handles VMs that are no longer declared.
{
  lib,
  pkgs,
  shared,
  ...
}:

let
  inherit (shared)
    cfg
    package
    stateDir
    names
    table
    helpers
    settings
    afterDirectories
    ;

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
in
{
  systemd.services.microvm-orphans = {
    description = "Handle MicroVMs that are no longer declared";
    # As with the installations: before the units that a switch starts.
    wantedBy = [
      "microvms.target"
      "sysinit-reactivation.target"
    ];
    # They create the directories that are recorded.
    after = afterDirectories ++ map (name: "install-microvm-${name}.service") names;
    # A renamed VM with the same tap or disk starts when the one with the old name is
    # down. A VM of microvm.nix that starts at boot is taken over before.
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
}
