{
  description = "NixOS in microVMs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  # The URL of this project.
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
              # One of those that `microvm hypervisors` lists.
              hypervisor = "qemu";

              # A disk that is created at the first start, and kept.
              volumes = [
                {
                  image = "var.img";
                  mountPoint = "/var";
                  size = 256;
                }
              ];

              # The host's store: no image has to be built, and a rebuild takes seconds.
              # Use proto = "virtiofs" for a VM that systemd starts.
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
