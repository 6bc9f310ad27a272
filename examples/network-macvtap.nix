# A VM on the LAN without a bridge: its macvtap interface stands on the host's
# Ethernet port. Faster than a bridge; host and VM cannot talk to each other
# through it, so give the VM a tap as well where they have to.
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
