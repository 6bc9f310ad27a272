# A VM on the LAN without a bridge: its macvtap interface is attached to the host's
# Ethernet port. That is faster than a bridge, but host and VM cannot reach each other
# through it. If they have to, add a tap to the VM.
{
  networking.useNetworkd = true;
  systemd.network = {
    enable = true;
    networks."10-lan" = {
      matchConfig.Name = "eno1";
      networkConfig.DHCP = "yes";
    };
  };

  microvm.vms.web.config = {
    system.stateVersion = "25.05";
    microvm.interfaces = [
      {
        type = "macvtap";
        id = "vm-web";
        mac = "02:00:00:08:00:01";
        macvtap = {
          link = "eno1";
          mode = "bridge";
        };
      }
    ];
    systemd.network = {
      enable = true;
      networks."20-lan" = {
        matchConfig.Type = "ether";
        networkConfig.DHCP = "yes";
      };
    };
  };
}
