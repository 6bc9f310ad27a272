# The microvm command, for a host that has its VMs in stateDir. microvm.nix has it at
# this path, with this argument.
{
  lib,
  callPackage,
  runCommandLocal,
  runtimeShell,
  stateDir ? "/var/lib/microvms",
  package ? callPackage ../nix/package.nix { },
  # More of what differs from the programs' own defaults.
  extraSettings ? { },
}:

let
  settings =
    lib.optionalAttrs (toString stateDir != "/var/lib/microvms") { MICROVM_STATE_DIR = toString stateDir; }
    # In the words of microvm.nix's script, for those that replace them.
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
