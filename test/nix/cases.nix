# The guests and hosts that the tests evaluate. Names read as what they are.
{ lib }:

let
  tap = {
    type = "tap";
    id = "vm-web";
    mac = "02:00:00:00:00:01";
  };
  user = {
    type = "user";
    id = "n";
    mac = "02:00:00:00:00:02";
  };
  data = {
    image = "data.img";
    mountPoint = "/data";
    size = 64;
  };
  hostStore = {
    tag = "ro-store";
    source = "/nix/store";
    mountPoint = "/nix/.ro-store";
  };
  home = {
    tag = "home";
    source = "home";
    mountPoint = "/home";
    proto = "virtiofs";
  };

  # A guest with nothing but its hypervisor and what nearly everybody uses.
  plain = hypervisor: {
    config.microvm = {
      inherit hypervisor;
      interfaces = [ tap ];
      volumes = [ data ];
    };
  };
  just = microvm: { config = { inherit microvm; }; };

  # As nixosSystem gives it.
  flakeSystem =
    name:
    import ./fake-nixpkgs/nixos/lib/eval-config.nix {
      pkgs = import ./stub-pkgs.nix { inherit lib; };
      modules = [
        ../../nixos-modules/microvm
        { networking.hostName = name; }
      ];
    };
  flake = name: {
    outPath = "/nix/store/00000000000000000000000000000000-source";
    nixosConfigurations.${name} = flakeSystem name;
  };
in
{
  # Systems for build-microvm.
  flakes =
    let
      guest = flakeSystem "web";
      undefined = throw "this option has no default";
      # The option values of microvm.nix's module, as far as they differ.
      theirs = microvm: removeAttrs microvm [
        "hostRunsTapUp"
        "package"
        "readiness"
        "spec"
      ] // {
        vsock = microvm.vsock // {
          ssh.enable = false;
        };
        firecracker = removeAttrs microvm.firecracker [ "jailer" ];
        interfaces = map (
          interface:
          interface
          // {
            macvtap.link = undefined;
            macvtap.mode = undefined;
          }
        ) microvm.interfaces;
        volumes = [
          {
            image = "/dev/vg/data";
            autoCreate = false;
            size = undefined;
            mountPoint = "/data";
            fsType = "xfs";
            readOnly = false;
            direct = false;
            imageType = "raw";
            serial = null;
            label = null;
            mkfsExtraArgs = [ ];
          }
        ];
        binScripts.pci-setup = "modprobe vfio-pci";
      };
    in
    {
      a-guest = guest;
      # Its packages are for another machine than this one's.
      no-guest = import ./fake-nixpkgs/nixos/lib/eval-config.nix {
        pkgs = import ./stub-pkgs.nix {
          inherit lib;
          system = "aarch64-linux";
          buildSystem = "x86_64-linux";
        };
        modules = [ { networking.hostName = "web"; } ];
      };
      a-guest-of-microvm-nix = {
        config.microvm = theirs guest.config.microvm;
        extendModules =
          arguments:
          let
            inherit (guest.extendModules arguments) config;
          in
          {
            inherit (guest) _module;
            config = config // {
              microvm = theirs config.microvm;
            };
          };
      };
    };

  guests = {
    with-nothing-set.config = { };

    qemu = plain "qemu";
    cloud-hypervisor = plain "cloud-hypervisor";
    firecracker = plain "firecracker";
    crosvm = plain "crosvm";
    kvmtool = plain "kvmtool";
    stratovirt = plain "stratovirt";
    alioth = plain "alioth";

    qemu-on-aarch64 = plain "qemu" // {
      system = "aarch64-linux";
    };

    # The hypervisor cannot ask its guest: the guest's SSH server can, or may not.
    kvmtool-with-an-address = just {
      hypervisor = "kvmtool";
      vsock.cid = 8;
    };
    kvmtool-that-is-not-asked = just {
      hypervisor = "kvmtool";
      vsock.cid = 8;
      vsock.ssh.shutdown = false;
    };
    qemu-without-a-socket = just {
      socket = null;
      vsock.cid = 8;
      vsock.ssh.enable = true;
    };

    with-the-hosts-store = just { shares = [ hostStore ]; };

    switchable.config = {
      services.openssh.enable = true;
      microvm.shares = [ hostStore ];
    };

    with-the-hosts-store-at-its-place = just {
      shares = [
        (hostStore // { mountPoint = "/nix/store"; })
      ];
    };

    with-a-writable-store = just {
      writableStoreOverlay = "/nix/.rw-store";
      volumes = [
        {
          image = "overlay.img";
          mountPoint = "/nix/.rw-store";
          size = 2048;
        }
      ];
      shares = [ (hostStore // { proto = "virtiofs"; }) ];
    };

    with-a-writable-store-on-a-share-over-the-store-disk = just {
      writableStoreOverlay = "/rw";
      shares = [
        {
          tag = "rw";
          source = "rw";
          mountPoint = "/rw";
          proto = "virtiofs";
        }
      ];
    };

    with-squashfs = just {
      storeDiskType = "squashfs";
      registerClosure = false;
    };

    with-less-in-the-store.config =
      { pkgs, ... }:
      {
        microvm.storeDiskExcludedClosures = [ pkgs.xfsprogs ];
      };

    everything-of-qemu.config = {
      networking.hostName = "all";
      services.openssh.enable = true;
      microvm = {
        vcpu = 4;
        mem = 1024;
        hugepageMem = true;
        hotplugMem = 512;
        hotpluggedMem = 256;
        balloon = true;
        deflateOnOOM = false;
        user = "microvm";
        socket = "control.sock";
        preStart = "echo starting";
        extraArgsScript = "/run/current-system/sw/bin/more-args";
        prettyProcnames = false;
        kernelParams = [ "quiet" ];
        readiness = "guest";
        vsock = {
          cid = 42;
          ssh.enable = true;
        };
        machineId = "a67472e5-570e-5c8a-b18c-ae3c77701050";
        registerWithMachined = true;
        credentialFiles.key = "/run/secrets/key";
        binScripts.hello = "echo hello";
        interfaces = [
          (
            tap
            // {
              tap.vhost = true;
            }
          )
          user
          {
            type = "macvtap";
            id = "vm-lan";
            mac = "02:00:00:00:00:03";
            macvtap = {
              link = "eno1";
              mode = "bridge";
            };
          }
        ];
        forwardPorts = [
          {
            host.port = 2222;
            guest.port = 22;
          }
          {
            from = "guest";
            guest = {
              address = "10.0.2.10";
              port = 80;
            };
            host = {
              address = "127.0.0.1";
              port = 80;
            };
          }
        ];
        volumes = [
          (
            data
            // {
              label = "data";
              direct = true;
              mkfsExtraArgs = [ "-m0" ];
            }
          )
          {
            image = "/dev/vg/logs";
            autoCreate = false;
            serial = "logs";
            readOnly = true;
            mountPoint = "/logs";
            fsType = "xfs";
            imageType = "qcow2";
          }
          {
            image = "raw.img";
            size = 8;
          }
        ];
        shares = [
          hostStore
          (
            home
            // {
              readOnly = true;
              cache = "always";
              posixAcl = false;
              extraArgs = [ "--translate-uid=guest:0:1000:1" ];
            }
          )
        ];
        devices = [
          {
            bus = "pci";
            path = "0000:01:00.0";
            qemu = {
              id = "card";
              bus = "port0";
              deviceExtraArgs = "x-igd-opregion=on";
            };
          }
          {
            bus = "usb";
            path = "vendorid=0xabcd,productid=0x0123";
          }
        ];
        graphics = {
          enable = true;
          backend = "headless";
        };
        virtiofsd = {
          inodeFileHandles = null;
          threadPoolSize = 2;
          group = null;
          extraArgs = [ "--log-level=debug" ];
        };
        qemu = {
          machine = "q35";
          serialConsole = false;
          extraArgs = [
            "-device"
            "i6300esb"
          ];
          pcieRootPorts = [
            {
              id = "port0";
              bus = "pcie.0";
              chassis = 0;
            }
          ];
        };
      };
    };

    everything-of-cloud-hypervisor = just {
      hypervisor = "cloud-hypervisor";
      vcpu = 2;
      balloon = true;
      initialBalloonMem = 64;
      hotplugMem = 512;
      vsock.cid = 5;
      interfaces = [ tap ];
      shares = [ home ];
      devices = [
        {
          bus = "pci";
          path = "0000:01:00.0";
        }
      ];
      cloud-hypervisor = {
        platformOEMStrings = [ "io.systemd.credential:A=b" ];
        extraArgs = [ "--watchdog" ];
      };
    };

    everything-of-firecracker = just {
      hypervisor = "firecracker";
      vsock.cid = 6;
      firecracker = {
        cpu.cpuid_modifiers = [ ];
        driveIoEngine = "Sync";
        extraArgs = [ "--no-seccomp" ];
        extraConfig.machine-config.smt = false;
        jailer = true;
      };
    };

    emulating-another-cpu = {
      system = "aarch64-linux";
      buildSystem = "x86_64-linux";
      config = {
        services.openssh.enable = true;
        microvm = {
          cpu = "cortex-a53";
          interfaces = [ user ];
          volumes = [ data ];
          shares = [
            hostStore
            home
          ];
        };
      };
    };

    as-large-as-it-comes = just { optimize.enable = false; };

    that-reports-nothing = just {
      vsock.cid = 7;
      readiness = "vmm";
    };

    that-is-warned-of.config = {
      nix.optimise.automatic = true;
      microvm.mem = 31;
    };

    with-sockets-in-a-directory = just {
      socket = "sockets/control.sock";
      shares = [ (home // { socket = "sockets/home.sock"; }) ];
      # Nobody uses it without a display.
      graphics.socket = "/run/web-gpu.sock";
    };

    with-names-that-udev-writes-otherwise = just {
      volumes = [
        (data // { label = "my data/1"; })
        {
          image = "logs.img";
          serial = "a b,c";
          mountPoint = "/logs";
          size = 64;
        }
      ];
    };

    with-paths-that-are-written-oddly = just {
      writableStoreOverlay = "/nix/.rw-store/";
      volumes = [
        {
          image = "overlay.img";
          mountPoint = "/nix//.rw-store";
          size = 64;
        }
        (data // { mountPoint = "/data/."; })
      ];
      shares = [
        (
          hostStore
          // {
            source = "/nix//store/";
            mountPoint = "/nix/.ro-store/";
          }
        )
      ];
    };

    with-two-things-in-one-place = just {
      volumes = [
        data
        (data // { image = "other.img"; mountPoint = "/data/"; })
      ];
      shares = [
        home
        (home // { tag = "home2"; })
      ];
    };

    # systemd-machined does not take it.
    with-a-name-that-is-no-machines.config = {
      networking.hostName = "web_1";
      microvm.registerWithMachined = true;
    };

    # Behind /dev/vdz.
    with-more-disks-than-letters = just {
      hypervisor = "alioth";
      volumes = lib.genList (i: {
        image = "${toString i}.img";
        mountPoint = "/${toString i}";
        size = 1;
      }) 27;
    };

    with-a-qemu-of-its-own.config =
      { pkgs, ... }:
      {
        microvm.qemu.package = pkgs.qemu;
      };
    with-a-share-by-9p = just { shares = [ (home // { proto = "9p"; }) ]; };

    # Both modules on one machine, with and without a way to be switched.
    that-is-a-host-as-well.config = {
      imports = [ ../../nixos-modules/host ];
      boot.loader.systemd-boot.enable = true;
    };
    that-is-a-host-and-can-be-switched.config = {
      imports = [ ../../nixos-modules/host ];
      boot.loader.systemd-boot.enable = true;
      system.switch.enable = true;
    };
    that-is-a-host-of-nested-vms.config.imports = [ ../../nixos-modules/host ];

    with-commands-for-taps-that-nobody-runs = just {
      interfaces = [ tap ];
      binScripts.tap-up = lib.mkAfter "ip link set vm-web master br0";
    };
    with-a-control-socket-elsewhere = just { socket = "/run/web.sock"; };
    with-a-control-socket-above = just { socket = "../web.sock"; };
    with-a-share-whose-socket-is-elsewhere = just { shares = [ (home // { socket = "/run/web-home.sock"; }) ]; };
    with-a-display-whose-socket-is-elsewhere = just {
      graphics = {
        enable = true;
        socket = "/run/web-gpu.sock";
      };
    };
    with-sockets-of-its-own-directory = just {
      socket = "/var/lib/microvms/web/web.sock";
      shares = [
        (home // { socket = "/var/lib/microvms/web/sockets/home.socket"; })
        {
          tag = "project";
          source = "./project";
          mountPoint = "/project";
          proto = "virtiofs";
          socket = "./project.sock";
        }
      ];
      volumes = [ (data // { image = "./data.img"; }) ];
    };

    # What people add to the package's scripts, put in their place, or leave empty.
    with-scripts-of-the-package-that-say-more.config =
      { lib, ... }:
      {
        microvm = {
          interfaces = [ tap ];
          shares = [ home ];
          devices = [
            {
              bus = "pci";
              path = "0000:01:00.0";
            }
          ];
          binScripts = {
            virtiofsd-run = lib.mkBefore "mkdir -p home";
            tap-up = lib.mkAfter "ip link set vm-web master br0";
            tap-down = lib.mkForce "";
            pci-setup = lib.mkForce "true";
            microvm-run = "exec something-else";
            empty = "";
          };
        };
      };

    with-an-address-in-extra-args = just {
      hypervisor = "cloud-hypervisor";
      cloud-hypervisor.extraArgs = [ "--vsock" "cid=5,socket=v.sock" ];
    };
    with-an-address-in-one-word-of-extra-args = just {
      hypervisor = "cloud-hypervisor";
      cloud-hypervisor.extraArgs = [ "--vsock=cid=6" ];
    };

    # For a machine with macOS as well.
    with-settings-of-macos-that-are-off.config =
      { lib, pkgs, ... }:
      {
        microvm.vfkit = {
          logLevel = lib.mkIf false "error";
          rosetta.enable = lib.mkIf false true;
        };
        microvm.hypervisor = if pkgs.stdenv.hostPlatform.isDarwin then "vfkit" else "qemu";
      };

    without-control-socket-and-machine-id = just {
      socket = null;
      machineId = null;
    };
  };

  refused = {
    the-same-image-twice = just {
      volumes = [
        data
        data
      ];
    };
    the-same-image-written-differently = just {
      volumes = [
        data
        (data // { image = "./data.img"; mountPoint = "/data2"; })
      ];
    };
    a-tap-with-a-name-of-linux = just { interfaces = [ (tap // { id = "default"; }) ]; };
    the-hosts-cpu-emulated = just { cpu = "host,-avx"; } // {
      system = "aarch64-linux";
      buildSystem = "x86_64-linux";
    };
    a-volume-without-size = just { volumes = [ (removeAttrs data [ "size" ]) ]; };
    the-same-interface-twice = just {
      interfaces = [
        tap
        tap
      ];
    };
    a-bridge-interface-without-bridge = just { interfaces = [ (tap // { type = "bridge"; }) ]; };
    a-tap-with-a-bridge = just { interfaces = [ (tap // { bridge = "br0"; }) ]; };
    a-macvtap-without-link = just { interfaces = [ (tap // { type = "macvtap"; }) ]; };
    a-long-interface-name = just { interfaces = [ (tap // { id = "vm-averyverylongname"; }) ]; };
    the-same-tag-twice = just {
      shares = [
        home
        (home // { mountPoint = "/home2"; })
      ];
    };
    the-same-socket-twice = just {
      shares = [
        (home // { socket = "s.sock"; })
        (
          home
          // {
            tag = "home2";
            socket = "s.sock";
          }
        )
      ];
    };
    virtiofs-without-socket = just { shares = [ (home // { socket = null; }) ]; };
    a-control-socket-with-no-name = just { socket = "sockets/"; };
    acls-with-translated-ids-of-one-share = just {
      shares = [ (home // { extraArgs = [ "--translate-uid=guest:0:1000:1" ]; }) ];
    };
    acls-with-translated-ids = just {
      shares = [ home ];
      virtiofsd.extraArgs = [ "--translate-gid=guest:0:1000:1" ];
    };
    forwarded-ports-without-user-network = just {
      forwardPorts = [
        {
          host.port = 1;
          guest.port = 1;
        }
      ];
    };
    forwarded-ports-of-kvmtool = just {
      hypervisor = "kvmtool";
      interfaces = [ user ];
      forwardPorts = [
        {
          host.port = 1;
          guest.port = 1;
        }
      ];
    };
    oem-strings-with-their-name = just {
      hypervisor = "cloud-hypervisor";
      cloud-hypervisor.platformOEMStrings = [ "oem_strings=[a]" ];
    };
    a-writable-store-that-is-optimised-now-and-then.config = {
      nix.optimise.automatic = true;
      microvm.writableStoreOverlay = "/nix/.rw-store";
    };
    a-writable-store-that-is-optimised.config = {
      nix.settings.auto-optimise-store = true;
      microvm.writableStoreOverlay = "/nix/.rw-store";
    };
    ssh-over-no-vsock = just { vsock.ssh.enable = true; };
    a-share-of-firecracker = just {
      hypervisor = "firecracker";
      shares = [ hostStore ];
    };
    a-device-of-stratovirt = just {
      hypervisor = "stratovirt";
      devices = [
        {
          bus = "pci";
          path = "0000:01:00.0";
        }
      ];
    };
    a-user-network-of-cloud-hypervisor = just {
      hypervisor = "cloud-hypervisor";
      interfaces = [ user ];
    };
    an-emulated-cpu-of-crosvm = just {
      hypervisor = "crosvm";
      cpu = "max";
    };
    a-balloon-of-stratovirt = just {
      hypervisor = "stratovirt";
      balloon = true;
    };
    hot-plugged-memory-of-crosvm = just {
      hypervisor = "crosvm";
      hotplugMem = 64;
    };
    huge-pages-of-firecracker = just {
      hypervisor = "firecracker";
      hugepageMem = true;
    };
    an-inflated-balloon-of-qemu = just {
      balloon = true;
      initialBalloonMem = 64;
    };
    a-qcow2-image-of-firecracker = just {
      hypervisor = "firecracker";
      volumes = [
        {
          image = "a.qcow2";
          imageType = "qcow2";
          autoCreate = false;
        }
      ];
    };
    a-serial-number-of-firecracker = just {
      hypervisor = "firecracker";
      volumes = [ (data // { serial = "data"; }) ];
    };
    direct-access-of-firecracker = just {
      hypervisor = "firecracker";
      volumes = [ (data // { direct = true; }) ];
    };
    vhost-net-of-cloud-hypervisor = just {
      hypervisor = "cloud-hypervisor";
      interfaces = [ (tap // { tap.vhost = true; }) ];
    };
    a-read-only-9p-share-of-crosvm = just {
      hypervisor = "crosvm";
      shares = [ (hostStore // { readOnly = true; }) ];
    };
    a-display-of-kvmtool = just {
      hypervisor = "kvmtool";
      graphics.enable = true;
    };
    credentials-of-crosvm = just {
      hypervisor = "crosvm";
      credentialFiles.key = "/run/secrets/key";
    };
    an-option-of-old-times = just { balloonMem = 64; };
    the-hypervisor-of-macos = just { vfkit.logLevel = "info"; };
  };

  # Paths that Nix and Go are to clean alike.
  paths = [
    "/nix/store"
    "/nix/store/"
    "/nix//store/."
    "//nix/store"
    "/nix/store/../store"
    "/../nix/store"
    "/"
    "//"
    "."
    "./a"
    "a/./b//c/"
    "../a/../../b"
    "a/.."
    "/a/..b/...c"
  ];

  hosts = {
    with-no-vm.config = { };

    with-a-vm-of-its-own.config.microvm.vms.web.config = {
      microvm = {
        interfaces = [ tap ];
        shares = [
          (
            home
            // {
              source = "/srv/home";
            }
          )
        ];
        registerWithMachined = true;
      };
    };

    # The test hosts start what this one and with-no-vm give systemd.
    with-a-vm-on-a-tap.config.microvm = {
      host.orphans = "stop";
      vms.web.config.microvm.interfaces = [ tap ];
    };

    # The one above, when there is a new release of the programs and nothing else.
    with-a-vm-of-its-own-and-newer-programs.config =
      { pkgs, ... }:
      {
        microvm.host.package = pkgs.stub "newer-microvm" { };
        microvm.vms.web.config = {
          microvm = {
            package = pkgs.stub "newer-microvm" { };
            interfaces = [ tap ];
            shares = [
              (
                home
                // {
                  source = "/srv/home";
                }
              )
            ];
            registerWithMachined = true;
          };
        };
      };
    # And when the guest has one CPU more.
    with-a-vm-of-its-own-and-more-cpus.config.microvm.vms.web.config.microvm = {
      vcpu = 2;
      interfaces = [ tap ];
      shares = [ (home // { source = "/srv/home"; }) ];
      registerWithMachined = true;
    };

    # The same VM under another name, as the test hosts start it after the one above.
    with-a-vm-that-has-another-name.config.microvm = {
      host.orphans = "stop";
      vms.next.config.microvm.interfaces = [ tap ];
    };

    with-a-vm-that-is-not-restarted.config.microvm.vms.web = {
      restartIfChanged = false;
      autostart = false;
      config = { };
    };

    # With everything that says how it is evaluated, and in two places.
    with-a-vm-for-another-machine.config = {
      imports = [ { microvm.vms.web.config.microvm.vcpu = 3; } ];
      microvm.vms.web = {
        pkgs = import ./stub-pkgs.nix {
          inherit lib;
          system = "aarch64-linux";
        };
        nixpkgs = ./fake-nixpkgs;
        specialArgs.size = 700;
        extraModules = [ ({ size, ... }: { microvm.mem = size; }) ];
        config = { };
      };
    };

    with-vms-from-flakes.config.microvm.vms = {
      web.flake = flake "web";
      db = {
        flake = flake "db";
        updateFlake = "git+https://example.org/a b?ref=50%#x";
      };
    };

    with-an-evaluated-vm.config.microvm.vms.web.evaluatedConfig = flakeSystem "web";

    # Of another module or release, or no NixOS.
    with-foreign-runners.config.microvm.vms = {
      web.evaluatedConfig.config.microvm.declaredRunner = (import ./stub-pkgs.nix { inherit lib; }).stub "unikernel" { };
      db.flake = {
        outPath = "/nix/store/00000000000000000000000000000000-source";
        nixosConfigurations.db.config.microvm = {
          declaredRunner = (import ./stub-pkgs.nix { inherit lib; }).stub "old-runner" { };
          interfaces = [
            {
              type = "tap";
              id = "vm-db";
            }
          ];
        };
      };
    };

    with-everything-elsewhere.config.microvm = {
      stateDir = "/srv/vms";
      autostart = [ "by-hand" ];
      host = {
        user = "vmm";
        group = "vmm";
        startupTimeout = 60;
        stopTimeout = 300;
        # What is said of orphans counts.
        stopOrphans = true;
        tapScript = "ip link set $id master br0";
        orphans = "purge";
      };
      vms.web.config = { };
    };

    with-a-vm-that-needs-every-helper.config.microvm = {
      host.tapScript = "ip link set $id master br0";
      vms.web.config.microvm = {
        interfaces = [
          tap
          {
            type = "macvtap";
            id = "vm-lan";
            mac = "02:00:00:00:00:03";
            macvtap = {
              link = "eno1";
              mode = "bridge";
            };
          }
        ];
        devices = [
          {
            bus = "pci";
            path = "0000:01:00.0";
          }
        ];
        # One in the VM's own directory is not made before that directory.
        shares = [
          (home // { source = "/var/lib/microvms/web/home"; })
        ];
      };
    };

    with-commands-for-a-vms-taps.config.microvm = {
      host.tapScript = "ip link set $id master br0";
      vms.web.config.microvm = {
        interfaces = [
          tap
          (
            tap
            // {
              id = "vm-ix";
              mac = "02:00:00:00:00:04";
            }
          )
        ];
        binScripts.tap-up = lib.mkAfter "ip link set vm-ix master peering";
      };
    };

    with-defaults-for-virtiofsd.config.microvm = {
      virtiofsd.group = "users";
      virtiofsd.package = (import ./stub-pkgs.nix { inherit lib; }).stub "virtiofsd-of-the-host" { };
      vms.web.config.microvm.shares = [ home ];
    };

    with-paths-that-are-written-oddly.config.microvm = {
      stateDir = "/srv/vms/";
      vms.web.config.microvm.shares = map (source: home // {
        tag = baseNameOf source;
        inherit source;
        mountPoint = "/${baseNameOf source}";
      }) [
        "/srv/vms//web/inside"
        "/nix/store-of-others"
        "/srv/./made/"
      ];
    };

    with-guests-that-report.config.microvm = {
      host.useNotifySockets = true;
      vms.db.config.microvm = {
        hypervisor = "cloud-hypervisor";
        cloud-hypervisor.extraArgs = [ "--vsock" "cid=5,socket=v.sock" ];
      };
      vms.web.config.microvm.vsock.cid = 3;
    };

    # Settings of people's own, on templates and on a VM, as microvm.nix takes them.
    with-settings-of-its-own.config =
      { lib, ... }:
      {
        microvm.host.startupTimeout = 300;
        microvm.vms.web.config.microvm.interfaces = [ tap ];
        systemd.services = {
          "microvm@" = {
            after = [ "zfs-mount.service" ];
            requires = [ "zfs-datasets@%i.service" ];
            path = [ "/own/path" ];
            environment.OWN = "1";
            serviceConfig = {
              MemoryMax = "2G";
              UMask = "0022";
              Nice = 5;
              ExecStartPre = [ "+/bin/ip link set %i master br0" ];
              ExecStopPost = "+/bin/true";
              BindPaths = "/srv/images";
              TimeoutStartSec = 600;
              RestartSec = 60;
            };
          };
          "microvm-virtiofsd@" = {
            preStart = "mkdir -p share";
            serviceConfig.TimeoutSec = 20;
          };
          "microvm@web" = {
            wants = [ "db.service" ];
            serviceConfig = {
              MemoryMax = "1G";
              TimeoutStopSec = 400;
            };
          };
          install-microvm-web = {
            path = [ "/own/zfs" ];
            script = lib.mkMerge [
              (lib.mkBefore "zfs create tank/web")
              (lib.mkAfter "test -e ./toplevel")
            ];
          };
        };
      };

    with-one-time-for-both.config =
      { lib, ... }:
      {
        microvm.vms.web.config = { };
        systemd.services."microvm@".serviceConfig.TimeoutSec = lib.mkOverride 55 20;
      };

    with-a-vm-that-is-not-there-yet.config.microvm.autostart = [ "later" ];

    with-a-vm-that-every-update-restarts.config.microvm.vms.web = {
      config = { };
      restartOnUpdate = true;
    };

    with-a-runner-that-somebody-changed.config.microvm.vms.web.config =
      { config, lib, ... }:
      {
        microvm.declaredRunner = lib.mkForce (
          config.microvm.runner.qemu.overrideAttrs (old: { buildCommand = old.buildCommand + "ln -sf /other $out/bin/microvm-run"; })
        );
      };

    with-a-jailed-vm.config.microvm.vms.web.config.microvm = {
      hypervisor = "firecracker";
      firecracker.jailer = true;
    };

    # As upstream itself made the directory, and in other ways.
    with-directories-of-the-hypervisors-user.config = {
      microvm.vms.web.config = { };
      systemd.tmpfiles.rules = [
        "d /var/lib/microvms 0755 microvm kvm - -"
        "Z /var/lib/microvms/web/ - microvm"
        "d /var/lib/microvms/web/data 0755 microvm kvm - -"
        "d /var/lib/other 0755 microvm kvm - -"
        "d /var/lib/microvms 0755 root root - -"
      ];
      systemd.tmpfiles.settings."20-own"."/var/lib/microvms/web".d.user = "microvm";
    };

    with-vms-of-other-accounts.config =
      { lib, ... }:
      {
        microvm.vms.web.config = { };
        systemd.services."microvm@web".serviceConfig = {
          User = "alice";
          AmbientCapabilities = [ "CAP_NET_BIND_SERVICE" ];
        };
        systemd.services."microvm@db".serviceConfig = {
          AmbientCapabilities = "CAP_NET_BIND_SERVICE";
          PrivateUsers = false;
        };
        microvm.vms.db.config = { };
        systemd.services."microvm@".serviceConfig.BindPaths = lib.mkForce [ "/srv" ];
      };

    that-stops-orphans.config.microvm.host.stopOrphans = true;

    # Its own list of bridges, instead of all.
    with-a-bridge-of-its-own.config.environment.etc."qemu/bridge.conf".text = "allow br0\n";

    with-libvirt.config.virtualisation.libvirtd.enable = true;

    that-is-none.config.microvm.host.enable = false;
  }
  # The hosts among the examples, one for each way to a network.
  // lib.genAttrs [
    "network-lan"
    "network-macvtap"
    "network-nat"
    "network-routed"
    "network-sriov"
  ] (name: { config = ../../examples + "/${name}.nix"; });

  refusedHosts = {
    a-vm-of-its-own-from-a-flake.config.microvm.vms.web = {
      config = { };
      flake = flake "web";
    };
    a-vm-of-its-own-with-an-origin.config.microvm.vms.web = {
      config = { };
      updateFlake = "github:example/vms";
    };
    a-vm-of-its-own-that-is-evaluated-elsewhere.config.microvm.vms.web = {
      config = { };
      evaluatedConfig = flakeSystem "web";
    };
    a-vm-from-a-flake-that-is-evaluated-elsewhere.config.microvm.vms.web = {
      flake = flake "web";
      evaluatedConfig = flakeSystem "web";
    };
    an-origin-of-no-flake.config.microvm.vms.web = {
      evaluatedConfig = flakeSystem "web";
      updateFlake = "github:example/vms";
    };
    a-guest-that-cannot-report.config.microvm = {
      host.useNotifySockets = true;
      vms.web.config = { };
    };
    a-guest-that-does-not-report.config.microvm = {
      host.useNotifySockets = true;
      vms.web.config.microvm = {
        vsock.cid = 3;
        readiness = "vmm";
      };
    };
    a-name-that-systemd-refuses.config.microvm.vms."a b".config = { };
  };
}
