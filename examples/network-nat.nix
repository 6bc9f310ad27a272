# A host with one public address: its VMs are on a private bridge, reach the Internet
# through NAT, and are reachable through forwarded ports.
{
  networking.useNetworkd = true;
  systemd.network = {
    enable = true;
    netdevs."10-vms".netdevConfig = {
      Kind = "bridge";
      Name = "vms";
    };
    networks = {
      "10-vms" = {
        matchConfig.Name = "vms";
        addresses = [
          { Address = "10.0.0.1/24"; }
          { Address = "fd12:3456:789a::1/64"; }
        ];
        networkConfig = {
          DHCPServer = true;
          IPv6SendRA = true;
          # The bridge has no carrier before the first VM is up.
          ConfigureWithoutCarrier = true;
        };
        ipv6Prefixes = [ { Prefix = "fd12:3456:789a::/64"; } ];
        linkConfig.RequiredForOnline = "no";
      };
      "11-vms" = {
        matchConfig.Name = "vm-*";
        networkConfig.Bridge = "vms";
      };
    };
  };

  networking.nat = {
    enable = true;
    enableIPv6 = true;
    # The interface to the Internet.
    externalInterface = "eno1";
    internalInterfaces = [ "vms" ];
    forwardPorts = [
      {
        proto = "tcp";
        sourcePort = 443;
        destination = "10.0.0.2:443";
      }
    ];
  };
  # For the DHCP server.
  networking.firewall.interfaces.vms.allowedUDPPorts = [ 67 ];

  microvm.vms.web.config = {
    system.stateVersion = "25.05";
    microvm.interfaces = [
      {
        type = "tap";
        id = "vm-web";
        mac = "02:00:00:06:00:01";
      }
    ];
    networking.firewall.allowedTCPPorts = [ 443 ];
    systemd.network = {
      enable = true;
      networks."20-vms" = {
        matchConfig.Type = "ether";
        networkConfig = {
          # A forwarded port needs a fixed address.
          Address = [ "10.0.0.2/24" ];
          Gateway = "10.0.0.1";
          DNS = [ "9.9.9.9" ];
          IPv6AcceptRA = true;
        };
      };
    };
  };
}
