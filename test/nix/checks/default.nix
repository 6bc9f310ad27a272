# What nix flake check runs: the cases of this directory's parent with this
# nixpkgs' lib, and tests in NixOS VMs.
{
  self,
  nixpkgs,
  system,
}:

let
  pkgs = nixpkgs.legacyPackages.${system};
  inherit (nixpkgs) lib;
  inherit (self.lib) capabilities hypervisors;

  cases = import ../eval.nix { inherit lib; };
  golden = attribute: lib.importJSON (../golden + "/${attribute}.json");

  # Results are compared as values; go test shows where they differ.
  same =
    attribute:
    lib.nameValuePair "modules-${attribute}" (
      pkgs.runCommandLocal "modules-${attribute}" { } (
        if builtins.fromJSON (builtins.toJSON cases.${attribute}) == golden attribute then
          "touch $out"
        else
          ''
            echo "test/nix/golden/${attribute}.json is not what the modules give; look at: go test ./test/nix -update && git diff" >&2
            exit 1
          ''
      )
    );

  # The specs among them, through the built program.
  specs = pkgs.runCommandLocal "specs-build" { } (
    lib.concatStrings (
      lib.mapAttrsToList (name: case: ''
        ${self.packages.${system}.microvm}/bin/microvm build ${pkgs.writeText "spec.json" (builtins.toJSON case.spec)} -o ${lib.replaceStrings [ "/" ] [ "-" ] name}
      '') (golden "guests" // golden "examples")
    )
    + "touch $out"
  );

  test = file: arguments: pkgs.testers.runNixOSTest (import file ({ inherit self lib; } // arguments));
  graceful = name: builtins.elem pkgs.stdenv.hostPlatform.parsed.cpu.name capabilities.${name}.shutdown;
in
lib.listToAttrs (
  map same [
    "guests"
    "examples"
    "refused"
    "hosts"
    "refusedHosts"
    "scripts"
  ]
)
// {
  specs-build = specs;
  package = self.packages.${system}.microvm;
  handbook = self.packages.${system}.doc;

  # Units and drop-ins as systemd sees them, a tap, a macvtap, shares.
  tap = test ./tap.nix { };
  macvtap = test ./macvtap.nix { };
  virtiofs = test ./virtiofs.nix { };
  # The microvm command, without a network: a package that is there already.
  command = test ./command.nix { };
  # A VM changes, and one leaves the configuration, by a switch.
  rebuild = test ./rebuild.nix { };
}
// lib.listToAttrs (
  map (
    hypervisor:
    lib.nameValuePair "start-and-shutdown-${hypervisor}" (
      test ./start-and-shutdown.nix {
        inherit hypervisor;
        graceful = graceful hypervisor;
      }
    )
  ) hypervisors
)
