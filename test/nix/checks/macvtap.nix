# A VM on the segment of a second machine, by a macvtap interface.
{ self, lib }:

let
  inherit (import ./common.nix { inherit self lib; }) host;
in
{
  name = "macvtap";
  nodes = {
    machine = host {
      web = {
        microvm.interfaces = [
          {
            type = "macvtap";
            id = "vm-web";
            mac = "02:00:00:00:00:01";
            macvtap = {
              link = "eth1";
              mode = "bridge";
            };
          }
        ];
        systemd.network = {
          enable = true;
          networks."10-eth" = {
            matchConfig.Type = "ether";
            address = [ "192.168.1.77/24" ];
          };
        };
        networking.firewall.enable = false;
      };
    };
    peer = { };
  };
  testScript = ''
    start_all()
    peer.wait_for_unit("network.target")
    machine.wait_for_unit("microvm@web.service", timeout=900)
    machine.succeed("ip -d link show vm-web | grep -q 'macvtap mode bridge'")
    # The host itself does not reach a macvtap on its own port.
    peer.wait_until_succeeds("ping -c1 192.168.1.77", timeout=900)
    machine.succeed("systemctl stop microvm@web", timeout=300)
    machine.fail("ip link show vm-web")
  '';
}
