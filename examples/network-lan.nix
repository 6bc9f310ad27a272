# A host that puts its VMs on the LAN: its Ethernet port and the VMs' taps are
# ports of one bridge. For a network with addresses to spare.
{
  networking.useNetworkd = true;
  systemd.network = {
    enable = true;
    netdevs."10-lan".netdevConfig = {
      Kind = "bridge";
      Name = "br0";
    };
    networks = {
      # The bridge has the address, not the port.
      "10-port" = {
        matchConfig.Name = [
          "eno1"
          "vm-*"
        ];
        networkConfig.Bridge = "br0";
      };
      "20-lan" = {
        matchConfig.Name = "br0";
        networkConfig = {
          Address = [ "192.168.1.2/24" ];
          Gateway = "192.168.1.1";
          DNS = [ "192.168.1.1" ];
          IPv6AcceptRA = true;
        };
        linkConfig.RequiredForOnline = "routable";
      };
    };
  };

  microvm.vms.web.config = {
    system.stateVersion = "25.05";
    microvm.interfaces = [
      {
        type = "tap";
        id = "vm-web";
        mac = "02:00:00:05:00:01";
      }
    ];
    systemd.network = {
      enable = true;
      networks."20-lan" = {
        matchConfig.Type = "ether";
        networkConfig = {
          Address = [ "192.168.1.3/24" ];
          Gateway = "192.168.1.1";
          DNS = [ "192.168.1.1" ];
          IPv6AcceptRA = true;
        };
      };
    };
  };
}
