# The unit that makes a switch fail while a declared VM keeps failing.
{
  lib,
  pkgs,
  shared,
  ...
}:

let
  inherit (shared) cfg names;

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
  # A unit that waits for its next restart is not a failed unit, so a switch would succeed
  # although a VM keeps failing. A switch starts this unit, as one that an active target
  # wants, at its end: earlier, it would report VMs that the switch is about to fix.
  systemd.services.microvm-failing = lib.mkIf (names != [ ]) {
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
