# Two VMs on a bridge of the host; the tap script has put them there.
{ self, lib }:

let
  inherit (import ./common.nix { inherit self lib; }) host;
  guest = n: {
    microvm = {
      # More than one queue where there is more than one CPU.
      vcpu = n;
      interfaces = [
        {
          type = "tap";
          id = "vm-${toString n}";
          mac = "02:00:00:00:00:0${toString n}";
        }
      ];
    };
    systemd.network = {
      enable = true;
      networks."10-eth" = {
        matchConfig.Type = "ether";
        address = [ "10.0.0.${toString (n + 1)}/24" ];
      };
    };
    networking.firewall.enable = false;
  };
in
{
  name = "tap";
  nodes.machine =
    { pkgs, ... }:
    {
      imports = [
        (host {
          one = guest 1;
          two = guest 2;
        })
      ];
      networking.bridges.vms.interfaces = [ ];
      networking.interfaces.vms.ipv4.addresses = [
        {
          address = "10.0.0.1";
          prefixLength = 24;
        }
      ];
      microvm.host.tapScript = ''
        ${pkgs.iproute2}/bin/ip link set "$id" master vms
      '';
    };
  testScript = ''
    for n, name in ((1, "one"), (2, "two")):
        machine.wait_for_unit(f"microvm@{name}.service", timeout=900)
        machine.succeed(f"ip -j -d link show vm-{n} | grep -q '\"master\":\"vms\"'")
        machine.wait_until_succeeds(f"ping -c1 10.0.0.{n + 1}", timeout=900)
    machine.succeed("test -e /sys/class/net/vm-2/queues/tx-1")

    # A rebuild or a restart of one does not touch the other.
    machine.succeed("systemctl stop microvm@one", timeout=300)
    machine.fail("ip link show vm-1")
    machine.succeed("ping -c1 10.0.0.3")
  '';
}
