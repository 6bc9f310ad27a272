# Scripts that install this VM on a host, and that switch a running guest to a new
# system.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  microvm-lib = import ../../nix/lib.nix { inherit lib; };
  # The scripts run where the VM is evaluated, which may differ from its host.
  inherit (pkgs.buildPackages) writeShellScriptBin;
  inherit (config.networking) hostName;
  inherit (config.system.build) toplevel;

  closureInfo = pkgs.closureInfo { rootPaths = [ toplevel ]; };

  # Without context, so that nothing is built here.
  name = builtins.unsafeDiscardStringContext;
  runnerDrv = name cfg.declaredRunner.drvPath;
  drvs = map name [
    config.nix.package.drvPath
    closureInfo.drvPath
    toplevel.drvPath
  ];

  switchable =
    config.system.switch.enable or true
    && config.services.openssh.enable
    && microvm-lib.hostStoreShare cfg.shares != null;

  # Parses the addresses and the option for sudo.
  arguments = usage: addresses: ''
    set -euo pipefail
    usage() {
      echo "usage: ''${0##*/} ${usage}" >&2
      exit 2
    }
    [ $# -ge ${toString (builtins.length addresses)} ] || usage
    ${lib.concatMapStrings (address: ''
      ${address}=$1
      shift
    '') addresses}
    sudo=()
    if [ "''${1-}" = --use-remote-sudo ]; then
      sudo=(sudo)
      shift
    fi
  '';
  # Parses the action of switch-to-configuration.
  action = ''
    action=''${1-switch}
    case $action in
      switch | boot | test | dry-activate) ;;
      *) usage ;;
    esac
    [ $# -le 1 ] || usage
  '';
in
{
  config.microvm.deploy = lib.mkIf cfg.guest.enable {
    installOnHost = writeShellScriptBin "microvm-install-on-host" ''
      ${arguments "root@HOST [--use-remote-sudo]" [ "host" ]}
      [ $# -eq 0 ] || usage

      echo "copying derivations to $host"
      nix --extra-experimental-features nix-command copy --no-check-sigs --derivation \
        --to "ssh-ng://$host" ${
          lib.concatMapStringsSep " " (drv: "'${drv}^out'") ([ runnerDrv ] ++ drvs)
        }

      # The delimiter is quoted, so that only the remote shell expands the script.
      ssh "$host" -- "''${sudo[@]}" bash -euo pipefail -s <<'REMOTE'
      nix="nix --extra-experimental-features nix-command"
      echo "building the system of ${hostName}"
      $nix build -L --no-link ${lib.concatMapStringsSep " " (drv: "'${drv}^out'") drvs}
      echo "building the runner of ${hostName}"
      # The link protects the runner from garbage collection until install-microvm does.
      work=$(mktemp -d)
      trap 'rm -rf "$work"' EXIT
      $nix build -L --out-link "$work/runner" '${runnerDrv}^out'
      runner=$(readlink "$work/runner")
      before=$(readlink /var/lib/microvms/${hostName}/current || true)
      install-microvm -p "$runner" ${hostName}
      if [ "$before" = "$runner" ]; then
        echo "${hostName} was up to date"
      elif [ -n "$before" ]; then
        $nix store diff-closures "$before" "$runner" || true
      fi
      REMOTE
    '';

    sshSwitch = lib.mkIf switchable (
      writeShellScriptBin "microvm-switch" ''
        ${arguments "root@VM [--use-remote-sudo] [switch|boot|test|dry-activate]" [ "vm" ]}
        ${action}
        ssh "$vm" -- "''${sudo[@]}" bash -euo pipefail -s "$action" <<'REMOTE'
        if [ "$(uname -n)" != ${lib.escapeShellArg hostName} ]; then
          echo "the system is for ${hostName}, but this is $(uname -n)" >&2
          echo "hint: check the address" >&2
          exit 1
        fi
        ${name config.nix.package.outPath}/bin/nix-store --load-db < ${name closureInfo.outPath}/registration
        ${name config.nix.package.outPath}/bin/nix-env -p /nix/var/nix/profiles/system --set ${name toplevel.outPath}
        ${name toplevel.outPath}/bin/switch-to-configuration "$1"
        REMOTE
      ''
    );

    rebuild = writeShellScriptBin "microvm-rebuild" ''
      ${arguments "root@HOST root@VM [--use-remote-sudo] [switch|boot|test|dry-activate]" [
        "host"
        "vm"
      ]}
      ${action}
      remote=()
      [ "''${#sudo[@]}" -eq 0 ] || remote=(--use-remote-sudo)
      ${lib.getExe cfg.deploy.installOnHost} "$host" "''${remote[@]}"
      ${
        if switchable then
          ''${lib.getExe cfg.deploy.sshSwitch} "$vm" "''${remote[@]}" "$action"''
        else
          ''
            echo "restarting ${hostName}: it cannot be switched without an SSH server and the host's store"
            ssh "$host" -- "''${sudo[@]}" systemctl restart microvm@${hostName}.service''
      }
    '';
  };
}
