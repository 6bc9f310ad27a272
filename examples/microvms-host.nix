# A host in a microVM, with a nested VM of every hypervisor: nix run .#vm
{
  self,
  nixpkgs,
  system,
}:

let
  inherit (nixpkgs) lib;
  inherit (self.lib) capabilities hypervisors;

  # The hypervisors that support taps, with an address for each guest.
  guests = lib.imap1 (i: name: {
    inherit name;
    mac = "02:00:00:02:00:${lib.fixedWidthString 2 "0" (toString i)}";
    address = "10.0.0.${toString (i + 1)}";
  }) (builtins.filter (name: builtins.elem "tap" capabilities.${name}.interfaces) hypervisors);
in
lib.nixosSystem {
  inherit system;
  modules = [
    # A machine can be host and guest at the same time.
    self.nixosModules.host
    self.nixosModules.microvm
    {
      networking.hostName = "microvms-host";
      system.stateVersion = lib.trivial.release;
      services.getty.autologinUser = "root";
      users.motd = ''
        microvm list             the nested VMs
        networkctl status vms    their addresses; ssh root@…, password "toor"
      '';

      microvm = {
        hypervisor = "qemu";
        # For the host's CPU features, such as nested KVM.
        qemu.machine = "q35";
        mem = 8192;
        vcpu = 4;
        interfaces = [
          {
            type = "user";
            id = "n";
            mac = "02:00:00:02:01:01";
          }
        ];
      };

      microvm.vms = lib.listToAttrs (
        map (
          { name, mac, ... }:
          lib.nameValuePair name {
            config = {
              system.stateVersion = lib.trivial.release;
              networking.hostName = "${name}-microvm";
              microvm = {
                hypervisor = name;
                interfaces = [
                  {
                    type = "tap";
                    id = "vm-${builtins.substring 0 12 name}";
                    inherit mac;
                  }
                ];
              };
              systemd.network.enable = true;
              users.users.root.password = "toor";
              services.openssh = {
                enable = true;
                settings.PermitRootLogin = "yes";
              };
            };
          }
        ) guests
      );

      systemd.network = {
        enable = true;
        netdevs.vms.netdevConfig = {
          Kind = "bridge";
          Name = "vms";
        };
        networks.vms = {
          matchConfig.Name = "vms";
          addresses = [ { Address = "10.0.0.1/24"; } ];
          networkConfig.DHCPServer = true;
          dhcpServerStaticLeases = map (
            { mac, address, ... }:
            {
              MACAddress = mac;
              Address = address;
            }
          ) guests;
        };
        networks.vm-taps = {
          matchConfig.Name = "vm-*";
          networkConfig.Bridge = "vms";
        };
      };
      networking = {
        firewall.allowedUDPPorts = [ 67 ];
        nat = {
          enable = true;
          internalInterfaces = [ "vms" ];
        };
      };
    }
  ];
}
