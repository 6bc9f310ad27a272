# The microvm command on a host that declares nothing: a package is installed,
# shown, started and stopped.
{ self, lib }:

let
  inherit (import ./common.nix { inherit self lib; }) host;
in
{
  name = "command";
  nodes.machine =
    { pkgs, ... }:
    let
      guest = lib.nixosSystem {
        inherit (pkgs.stdenv.hostPlatform) system;
        modules = [
          self.nixosModules.microvm
          {
            networking.hostName = "byhand";
            system.stateVersion = lib.trivial.release;
          }
        ];
      };
    in
    {
      imports = [ (host { }) ];
      # In the machine's store, and nothing more.
      system.extraDependencies = [ guest.config.microvm.declaredRunner ];
      environment.etc.runner.source = guest.config.microvm.declaredRunner;
    };
  testScript = ''
    machine.wait_for_unit("multi-user.target")
    machine.succeed("microvm hypervisors | grep -q cloud-hypervisor")
    machine.succeed("install-microvm -p $(readlink -f /etc/runner) byhand")
    machine.succeed("microvm list | grep byhand")
    machine.succeed("microvm show byhand | grep -q 'hypervisor *qemu'")
    machine.succeed("systemctl start microvm@byhand", timeout=900)
    machine.succeed("nix-store --gc && readlink -e /var/lib/microvms/byhand/booted")
    machine.succeed("systemctl stop microvm@byhand", timeout=300)
    machine.fail("install-microvm -p /tmp '../evil'")
  '';
}
