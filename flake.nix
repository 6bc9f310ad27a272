{
  description = "microVMs under systemd, from one file";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    # Only for cloud-hypervisor-graphics in the overlay.
    spectrum = {
      url = "git+https://spectrum-os.org/git/spectrum";
      flake = false;
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      spectrum,
    }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAllSystems = lib.genAttrs systems;
      microvm-lib = import ./nix/lib.nix { inherit lib; };
      inherit (microvm-lib) capabilities hypervisors;

      example = import ./nix/example.nix { inherit self nixpkgs; };

      # NAME-example, and NAME-example-with-tap if the hypervisor supports taps.
      examples =
        system:
        lib.listToAttrs (
          lib.concatMap (
            hypervisor:
            [
              {
                name = "${hypervisor}-example";
                value = example { inherit system hypervisor; };
              }
            ]
            ++ lib.optional (builtins.elem "tap" capabilities.${hypervisor}.interfaces) {
              name = "${hypervisor}-example-with-tap";
              value = example {
                inherit system hypervisor;
                tap = true;
              };
            }
          ) hypervisors
        )
        // {
          vm = import ./examples/microvms-host.nix { inherit self nixpkgs system; };
          qemu-vnc = import ./examples/qemu-vnc.nix { inherit self nixpkgs system; };
        };

      # The hosts of the chapters on networks, with a minimal system.
      hosts =
        system:
        lib.genAttrs
          [
            "network-lan"
            "network-macvtap"
            "network-nat"
            "network-routed"
            "network-sriov"
          ]
          (
            name:
            lib.nixosSystem {
              inherit system;
              modules = [
                self.nixosModules.host
                (./examples + "/${name}.nix")
                {
                  networking.hostName = name;
                  system.stateVersion = lib.trivial.release;
                  boot.loader.grub.enable = false;
                  fileSystems."/" = {
                    device = "/dev/disk/by-label/nixos";
                    fsType = "ext4";
                  };
                }
              ];
            }
          );

      runnerOf = nixos: nixos.config.microvm.declaredRunner;
    in
    {
      nixosModules = {
        microvm = ./nixos-modules/microvm;
        host = ./nixos-modules/host;
        microvm-options = ./nixos-modules/microvm/options.nix;
      };

      lib = microvm-lib;

      overlays.default = import ./nix/overlay.nix { inherit spectrum; };
      # The former name of this output.
      overlay = self.overlays.default;

      templates.microvm = {
        path = ./template;
        description = "A flake with a microVM";
      };
      templates.default = self.templates.microvm;
      # The former name of this output.
      defaultTemplate = self.templates.microvm;

      nixosConfigurations = lib.concatMapAttrs (
        system: lib.mapAttrs' (name: lib.nameValuePair "${system}-${name}")
      ) (forAllSystems (system: examples system // hosts system));

      packages = forAllSystems (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          default = self.packages.${system}.microvm;
          microvm = pkgs.callPackage ./nix/package.nix { };
          build-microvm = pkgs.callPackage ./nix/build-microvm.nix { inherit self; };
          doc = pkgs.callPackage ./nix/doc.nix { };
          inherit (self.overlays.default pkgs pkgs) cloud-hypervisor-graphics;
          # Packages that take long to build, for a binary cache.
          prebuilt = pkgs.linkFarm "prebuilt" (
            map (name: {
              inherit name;
              path = runnerOf (examples system)."${name}-example";
            }) (lib.remove "alioth" hypervisors)
          );
        }
        // lib.mapAttrs (_: runnerOf) (examples system)
      );

      apps = forAllSystems (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
          app = description: program: {
            type = "app";
            program = toString program;
            meta = { inherit description; };
          };
          runner = name: "${self.packages.${system}.${name}}/bin/microvm-run";
        in
        {
          default = self.apps.${system}.microvm;
          microvm = app "Manage microVMs" "${self.packages.${system}.microvm}/bin/microvm";
          build-microvm = app "Build a flake's system as a microVM" (
            lib.getExe self.packages.${system}.build-microvm
          );
          vm = app "A host in a microVM, with a nested VM of every hypervisor" (runner "vm");
          qemu-vnc = app "A microVM with a display on VNC" (runner "qemu-vnc");
          graphics = app "Graphical programs in a microVM: graphics [--tap INTERFACE] PACKAGE…" (
            pkgs.writeShellScript "graphics" ''
              set -euo pipefail
              tap=
              if [ "''${1-}" = --tap ]; then
                tap=''${2-}
                shift "$(( $# < 2 ? $# : 2 ))"
              fi
              if [ $# -eq 0 ]; then
                echo "usage: nix run …#graphics -- [--tap INTERFACE] PACKAGE…" >&2
                exit 2
              fi
              exec nix --extra-experimental-features 'nix-command flakes' run --impure \
                --file ${./examples/graphics.nix} \
                --argstr self ${self} --argstr nixpkgs ${nixpkgs} \
                --argstr system ${system} --argstr packages "$*" --argstr tapInterface "$tap" \
                config.microvm.declaredRunner
            ''
          );
          # On the host, for the guest's run-waypipe.
          waypipe-client = app "Show the windows of microVMs on this desktop" (
            pkgs.writeShellScript "waypipe-client" ''
              exec ${lib.getExe pkgs.waypipe} --vsock -s 6000 client
            ''
          );
        }
      );

      checks = forAllSystems (system: import ./test/nix/checks { inherit self nixpkgs system; });

      # The same, for Hydra.
      hydraJobs = lib.mapAttrs (
        _: lib.mapAttrs (_: check: lib.recursiveUpdate check { meta.timeout = 12 * 60 * 60; })
      ) self.checks;

      formatter = forAllSystems (
        system: with nixpkgs.legacyPackages.${system}; nixfmt or nixfmt-rfc-style
      );
    };
}
