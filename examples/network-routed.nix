# A host that routes to each VM separately. There is no bridge, so that no VM can send
# frames to another one, forged or not. VM number N has the address 10.0.0.N.
{ lib, ... }:

let
  # The number of each VM.
  vms = {
    web = 1;
    db = 2;
  };

  # A link-local address, the same on every tap.
  gateway = "169.254.0.1";
  gateway6 = "fe80::1";
  address = n: "10.0.0.${toString n}/32";
  address6 = n: "fd12:3456:789a::${lib.toHexString n}/128";
  mac = n: "02:00:00:07:00:${lib.fixedWidthString 2 "0" (lib.toHexString n)}";

  host = name: n: {
    "30-vm-${name}" = {
      matchConfig.Name = "vm-${name}";
      address = [
        "${gateway}/32"
        "${gateway6}/64"
      ];
      routes = [
        { Destination = address n; }
        { Destination = address6 n; }
      ];
      networkConfig = {
        IPv4Forwarding = true;
        IPv6Forwarding = true;
      };
    };
  };

  guest = name: n: {
    config = {
      system.stateVersion = "25.05";
      microvm.interfaces = [
        {
          type = "tap";
          id = "vm-${name}";
          mac = mac n;
        }
      ];
      systemd.network = {
        enable = true;
        networks."10-eth" = {
          matchConfig.MACAddress = mac n;
          address = [
            (address n)
            (address6 n)
          ];
          routes = [
            {
              Destination = "0.0.0.0/0";
              Gateway = gateway;
              # The gateway is not in a subnet of the guest.
              GatewayOnLink = true;
            }
            {
              Destination = "::/0";
              Gateway = gateway6;
              GatewayOnLink = true;
            }
          ];
          networkConfig.DNS = [
            "9.9.9.9"
            "2620:fe::fe"
          ];
        };
      };
    };
  };
in
{
  networking.useNetworkd = true;
  systemd.network = {
    enable = true;
    networks = lib.concatMapAttrs host vms;
  };
  networking.nat = {
    enable = true;
    enableIPv6 = true;
    # One rule for all VMs.
    internalIPs = [ "10.0.0.0/24" ];
    internalIPv6s = [ "fd12:3456:789a::/64" ];
    externalInterface = "eno1";
  };

  microvm.vms = lib.mapAttrs guest vms;
}
