# A VM of one hypervisor starts with its host, keeps its volume over a restart,
# and stops.
{
  self,
  lib,
  hypervisor,
  graceful,
}:

let
  inherit (import ./common.nix { inherit self lib; }) host;
  inherit (self.lib.capabilities.${hypervisor}) guestReadiness;
in
{
  name = "start-and-shutdown-${hypervisor}";
  nodes.machine = host {
    web = {
      microvm = {
        inherit hypervisor;
        volumes = [
          {
            image = "data.img";
            mountPoint = "/data";
            size = 64;
          }
        ];
        vsock.cid = lib.mkIf guestReadiness 42;
      };
      systemd.services.count = {
        wantedBy = [ "multi-user.target" ];
        unitConfig.RequiresMountsFor = "/data";
        script = "echo boot >> /data/boots; sync /data/boots; echo boots: $(wc -l < /data/boots)";
        serviceConfig = {
          Type = "oneshot";
          StandardOutput = "journal+console";
        };
      };
    };
  };
  testScript = ''
    machine.wait_for_unit("microvm@web.service", timeout=900)
    machine.wait_until_succeeds("journalctl -u microvm@web | grep -q 'boots: 1'", timeout=900)
    machine.succeed("ps -o user=,args= -C ${hypervisor} | grep -q microvm || ps -eo user=,args= | grep '^microvm .*microvm@web'")

    machine.succeed("systemctl restart microvm@web", timeout=900)
    machine.wait_until_succeeds("journalctl -u microvm@web | grep -q 'boots: 2'", timeout=900)

    machine.succeed("systemctl stop microvm@web", timeout=300)
    ${lib.optionalString graceful ''
      machine.fail("journalctl -u microvm@web | grep -q 'SIGKILL'")
    ''}
    machine.fail("test -e /var/lib/microvms/web/booted")
    machine.fail("test -e /run/microvm/web")
  '';
}
