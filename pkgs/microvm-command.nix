# The microvm command, for a host that has its VMs in stateDir. Path and argument are
# those of microvm.nix.
{
  lib,
  callPackage,
  runCommandLocal,
  runtimeShell,
  stateDir ? "/var/lib/microvms",
  package ? callPackage ../nix/package.nix { },
  # Further settings that differ from the programs' defaults.
  extraSettings ? { },
}:

let
  settings =
    lib.optionalAttrs (toString stateDir != "/var/lib/microvms") { MICROVM_STATE_DIR = toString stateDir; }
    # Written as in microvm.nix's script, for configurations that replace this text.
    // {
      MICROVM_SSH = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null";
    }
    // extraSettings;
in
runCommandLocal "microvm-command"
  {
    meta = {
      priority = 4;
      mainProgram = "microvm";
    };
  }
  ''
    mkdir -p $out/bin
    ln -s ${package}/share $out/share
    for program in ${package}/bin/*; do
      cat > $out/bin/''${program##*/} <<EOF
    #!${runtimeShell}
    ${lib.concatStrings (lib.mapAttrsToList (key: value: "export ${key}=${lib.escapeShellArg value}\n") settings)}
    exec $program "\$@"
    EOF
      chmod +x $out/bin/''${program##*/}
    done
  ''
