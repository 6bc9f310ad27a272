# The systems of a NixOS host, generation by generation.
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
      boot.kernelParams = [
        "quiet"
        # As our runners say it: a CPU that is emulated has nothing else to find out
        # from how fast it is, on QEMU's machine without a PIT.
        "tsc_early_khz=2000000"
      ];
      microvm = {
        hypervisor = lib.mkDefault "qemu";
        # With a CPU that is named QEMU emulates it.
        cpu = "max";
        mem = lib.mkDefault 256;
        kernel = pkgs.testGuest;
        initrdPath = "${pkgs.testGuest}/initrd";
        # The guest mounts none.
        storeDisk = lib.mkForce "${pkgs.testGuest}/store";
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
  # The test guest writes there that it was shut down.
  volume = {
    boot.kernelParams = [ "mvguest.mount=data:/data:ext4" ];
    microvm.volumes = [
      {
        image = "data.img";
        size = 64;
        label = "data";
        mountPoint = "/data";
      }
    ];
  };
  # A VM: its modules, and what the host says of it.
  vm = modules: more: { config = guest modules; } // more;
  vms = vms: { microvm = { inherit vms; }; };
  orphans = policy: { microvm.host.orphans = policy; };

  # `a` is restarted when it has changed, `k` is kept.
  a = more: vm ([ volume (tap "vm-a" 1) ] ++ more) { };
  k = more: vm ([ (tap "vm-k" 2) ] ++ more) { restartIfChanged = false; };
  # The tap of `a`, below another name.
  b = vm [ (tap "vm-a" 1) ] { };
  bad = more: vm ([ { microvm.qemu.extraArgs = [ "-no-such-option" ]; } ] ++ more) { };

  ours = modules: host ([ ../../nixos-modules/host ] ++ modules);
  two = vms {
    a = a [ ];
    k = k [ ];
  };
  withoutA = policy: ours [ (vms { k = k [ ]; }) (orphans policy) ];
  renamed = policy: ours [ (vms { inherit b; k = k [ ]; }) (orphans policy) ];

  generations = {
    none = ours [ ];
    two = ours [ two ];
    unrelated = ours [ two { environment.etc."unrelated".text = "changed"; } ];
    networkd = ours [
      two
      {
        networking.useNetworkd = true;
        networking.useHostResolvConf = false;
        services.resolved.enable = false;
        systemd.network.wait-online.enable = false;
      }
    ];
    bigger = ours [
      (vms {
        a = a [ (mem 264) ];
        k = k [ (mem 264) ];
      })
    ];
    without-a-keep = withoutA "keep";
    without-a-stop = withoutA "stop";
    without-a-purge = withoutA "purge";
    two-stop = ours [ two (orphans "stop") ];
    two-purge = ours [ two (orphans "purge") ];
    renamed-stop = renamed "stop";
    renamed-purge = renamed "purge";
    updating = ours [
      (vms {
        a = a [ ] // {
          restartOnUpdate = true;
        };
        k = k [ ];
      })
    ];
    bad = ours [ (vms { bad = bad [ ]; }) ];
    bad-bigger = ours [ (vms { bad = bad [ (mem 264) ]; }) ];
  }
  # The same VMs with another release: all of its files are another tree's, and its
  # programs were built of that.
  // lib.optionalAttrs (args.release != null) (
    let
      next = import (args.release.tree + "/test/nixos/generations.nix") (
        args
        // {
          inherit (args.release) programs;
          release = null;
        }
      );
    in
    {
      release = next.generations.two;
      updating-release = next.generations.updating;
    }
  )
  // lib.optionalAttrs (args.upstream != null) upstream;

  # The same VMs on a host of microvm.nix and on one of ours. `m` is declared with
  # the host and `e` was evaluated elsewhere: no switch restarts them; `r` it does.
  moving = module: guestModule: [
    module
    (vms {
      m = vm [ volume (tap "vm-m" 1) ] { restartIfChanged = false; specialArgs = { inherit lib; }; };
      r = vm [ (tap "vm-r" 3) ] { restartIfChanged = true; specialArgs = { inherit lib; }; };
      e.evaluatedConfig = import (args.nixpkgs + "/nixos/lib/eval-config.nix") {
        inherit pkgs lib;
        inherit (pkgs) system;
        modules = [
          guestModule
          (guest [ (tap "vm-e" 2) ])
          { networking.hostName = "e"; }
        ];
      };
    })
  ];
  upstream = {
    theirs = host (moving (args.upstream + "/nixos-modules/host") (args.upstream + "/nixos-modules/microvm"));
    theirs-none = host [ (args.upstream + "/nixos-modules/host") ];
    moved = host (moving ../../nixos-modules/host ../../nixos-modules/microvm);
  };
in
{
  inherit generations;
  built = lib.mapAttrs (_: system: system.config.system.build.toplevel) generations;
}
