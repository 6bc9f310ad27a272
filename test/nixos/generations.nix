# The systems of a NixOS host, generation by generation, as links in a directory.
args:

let
  inherit (import ./host.nix args) common host pkgs;
  inherit (pkgs) lib;

  # The test guest in the place of the guest's NixOS, whose system is evaluated
  # and built and never runs: what is tested is the host.
  guest =
    modules:
    {
      imports = modules ++ [ common ];
      microvm = {
        hypervisor = lib.mkDefault "qemu";
        # With a CPU that is named QEMU emulates it.
        cpu = "max";
        mem = lib.mkDefault 256;
        kernel = pkgs.testGuest;
        initrdPath = "${pkgs.testGuest}/initrd";
        storeOnDisk = false;
      };
    };

  tap = id: number: {
    microvm.interfaces = [
      {
        type = "tap";
        inherit id;
        mac = "02:00:00:00:00:0${toString number}";
      }
    ];
  };
  mem = mem: { microvm = { inherit mem; }; };
  volume.microvm.volumes = [
    {
      image = "data.img";
      size = 64;
      label = "data";
      mountPoint = "/data";
    }
  ];
  words = list: { microvm.kernelParams = list; };

  vm = modules: more: { config = guest modules; } // more;
  vms = vms: { microvm = { inherit vms; }; };

  ours = modules: host ([ ../../nixos-modules/host ] ++ modules);

  a = vm [ volume (tap "vm-a" 1) (words [ "mvguest.mount=data:/data:ext4" ]) ];

  generations = {
    none = ours [ ];
    first = ours [ (vms { a = a { }; }) ];
  };
in
pkgs.linkFarm "generations" (lib.mapAttrsToList (name: system: {
  inherit name;
  path = system.config.system.build.toplevel;
}) generations)
