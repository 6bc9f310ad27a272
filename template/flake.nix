{
  description = "NixOS in microVMs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  # Where you have this flake from.
  inputs.microvm.url = "github:example/microvm";
  inputs.microvm.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    {
      self,
      nixpkgs,
      microvm,
    }:
    let
      system = "x86_64-linux";
    in
    {
      # nix run .#my-microvm
      packages.${system} = {
        default = self.packages.${system}.my-microvm;
        my-microvm = self.nixosConfigurations.my-microvm.config.microvm.declaredRunner;
      };

      nixosConfigurations.my-microvm = nixpkgs.lib.nixosSystem {
        inherit system;
        modules = [
          microvm.nixosModules.microvm
          {
            networking.hostName = "my-microvm";
            system.stateVersion = nixpkgs.lib.trivial.release;
            users.users.root.password = "";

            microvm = {
              # Every hypervisor of `microvm hypervisors` can stand here.
              hypervisor = "qemu";

              # A disk that is made at the first start, and kept.
              volumes = [
                {
                  image = "var.img";
                  mountPoint = "/var";
                  size = 256;
                }
              ];

              # The host's store: nothing is packed, and a rebuild takes seconds.
              # Take proto = "virtiofs" for a VM that systemd starts.
              shares = [
                {
                  proto = "9p";
                  tag = "ro-store";
                  source = "/nix/store";
                  mountPoint = "/nix/.ro-store";
                }
              ];
            };
          }
        ];
      };
    };
}
