# A small guest for each hypervisor, with the features that it supports.
{ self, nixpkgs }:

{
  system,
  hypervisor,
  tap ? false,
}:

let
  inherit (nixpkgs) lib;
  capability = self.lib.capabilities.${hypervisor};
  has = field: value: builtins.elem value capability.${field};
  order = lib.lists.findFirstIndex (name: name == hypervisor) 0 self.lib.hypervisors;
in
lib.nixosSystem {
  inherit system;
  modules = [
    self.nixosModules.microvm
    {
      system.stateVersion = lib.trivial.release;
      networking.hostName = "${hypervisor}-microvm";
      services.getty.autologinUser = "root";

      microvm = {
        inherit hypervisor;
        # 9p: outside systemd nothing starts a virtiofsd.
        shares = lib.optional (has "shares" "9p") {
          proto = "9p";
          tag = "ro-store";
          source = "/nix/store";
          mountPoint = "/nix/.ro-store";
        };
      };
    }
    (lib.mkIf (!tap && has "interfaces" "user") {
      microvm.interfaces = [
        {
          type = "user";
          id = "n";
          mac = "02:00:00:01:01:01";
        }
      ];
    })
    (lib.mkIf (!tap && has "interfaces" "user" && capability.forwardPorts) {
      # ssh -p 2222 root@localhost, password "root"
      microvm.forwardPorts = [
        {
          host.address = "127.0.0.1";
          host.port = 2222;
          guest.port = 22;
        }
      ];
    })
    (lib.mkIf tap {
      microvm.interfaces = [
        {
          type = "tap";
          id = "vm-${builtins.substring 0 4 hypervisor}";
          mac = "02:00:00:01:02:0${toString (order + 1)}";
        }
      ];
    })
    (lib.mkIf (tap || capability.forwardPorts) {
      services.openssh = {
        enable = true;
        settings.PermitRootLogin = "yes";
      };
      # A password for a demo: the guest can be reached from this host only.
      users.users.root.password = "root";
    })
  ];
}
