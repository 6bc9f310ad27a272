# A switch restarts a VM that it changed, leaves one alone that it did not, and
# stops one that is no longer declared.
{ self, lib }:

let
  inherit (import ./common.nix { inherit self lib; }) host;
  guest = mem: { microvm = { inherit mem; }; };
in
{
  name = "rebuild";
  nodes.machine =
    { ... }:
    {
      imports = [
        (host {
          same = guest 512;
        })
      ];
      specialisation.before.configuration.imports = [
        (host {
          changed = guest 512;
          gone = guest 512;
        })
      ];
      specialisation.after.configuration = {
        imports = [
          (host {
            changed = guest 600;
          })
        ];
        microvm.host.orphans = "stop";
      };
    };
  testScript = ''
    def switch(name):
        machine.succeed(f"/run/booted-system/specialisation/{name}/bin/switch-to-configuration test >&2", timeout=1800)

    def pid(name):
        return machine.succeed(f"systemctl show -P MainPID microvm@{name}").strip()

    machine.wait_for_unit("microvm@same.service", timeout=900)
    switch("before")
    for name in ("changed", "gone"):
        machine.wait_for_unit(f"microvm@{name}.service", timeout=900)
    same, changed = pid("same"), pid("changed")

    switch("after")
    machine.wait_for_unit("microvm@changed.service", timeout=900)
    assert pid("same") == same, "an unchanged VM was restarted"
    assert pid("changed") != changed, "a changed VM was not restarted"
    machine.succeed("grep -qw 600 /var/lib/microvms/changed/booted/share/microvm/runner.json")
    machine.wait_until_fails("systemctl is-active microvm@gone", timeout=300)
    machine.succeed("test -d /var/lib/microvms/gone")
  '';
}
