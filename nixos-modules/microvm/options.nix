# The microvm.* options of a guest. Those that describe the VM have the names of the
# fields of the Go spec (internal/spec/spec.go), which a test compares with this file;
# the others belong to this module.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    literalExpression
    mkEnableOption
    mkOption
    types
    ;
  inherit (types)
    attrsOf
    bool
    enum
    ints
    listOf
    nullOr
    str
    submodule
    ;

  microvm-lib = import ../../nix/lib.nix { inherit lib; };

  cfg = config.microvm;
  hostName = config.networking.hostName or "microvm";
  host = cfg.vmHostPackages;
  kernelAtLeast = lib.versionAtLeast config.boot.kernelPackages.kernel.version;

  # A QEMU without graphical libraries is a fraction of the size. In nixpkgs the flag is
  # for NixOS' tests, and makes root the owner of every file of a 9p share.
  smallQEMU =
    qemu:
    if
      cfg.optimize.enable
      && !cfg.graphics.enable
      && !(builtins.any ({ proto, ... }: proto == "9p") cfg.shares)
      && (qemu.override.__functionArgs or { }) ? nixosTestRunner
    then
      qemu.override { nixosTestRunner = true; }
    else
      qemu;

  flag = default: description: mkOption { type = bool; inherit default description; };
  number = default: description: mkOption { type = ints.unsigned; inherit default description; };
  maybe = type: description: mkOption { type = nullOr type; default = null; inherit description; };
  words = description: mkOption { type = listOf str; default = [ ]; inherit description; };
  program =
    name: default: text:
    mkOption {
      type = types.package;
      inherit default;
      defaultText = literalExpression text;
      description = "Package that provides ${name}.";
    };

  endpoint = side: {
    address = mkOption {
      type = str;
      default = "";
      description = "IPv4 address on the side of the ${side}; empty means any.";
    };
    port = mkOption {
      type = types.port;
      description = "Port on the side of the ${side}.";
    };
  };
in
{
  imports = [
    ../virtiofsd-options.nix
    # The name in the handbook of microvm.nix.
    (lib.doRename {
      from = [ "microvm" "runners" ];
      to = [ "microvm" "runner" ];
      visible = false;
      warn = false;
      use = lib.id;
    })
    (lib.mkRemovedOptionModule [ "microvm" "balloonMem" ] ''
      hint: set microvm.balloon = true instead if the hypervisor has a balloon, and microvm.initialBalloonMem if it can inflate the balloon at the start
    '')
  ];

  options.microvm = {
    guest.enable = flag true ''
      Whether this system is a microVM guest.
    '';

    optimize.enable = flag true ''
      Smaller closures and faster boots through other defaults: no documentation, an
      initrd with systemd if the hypervisor supports it, systemd-networkd without
      waiting for the network, no software RAID, no TPM, a QEMU without graphical
      libraries unless a display or a 9p share needs them, and no
      `switch-to-configuration` in a guest that cannot be switched.
    '';

    hypervisor = mkOption {
      type = enum microvm-lib.hypervisors;
      default = "qemu";
      description = ''
        Hypervisor that runs the VM. The chapter on hypervisors has a table of
        their features.
      '';
    };

    cpu = maybe str ''
      CPU model of the guest. `null` is the host's own CPU, with KVM. A model also
      runs under KVM if guest and host have the same architecture. A guest of another
      architecture is emulated, which is slow and which only QEMU supports.
    '';

    vcpu = mkOption {
      type = ints.positive;
      default = 1;
      description = "Number of virtual CPU cores.";
    };

    mem = mkOption {
      type = ints.positive;
      default = 512;
      description = "Memory in MiB.";
    };

    hugepageMem = flag false "Backs the guest's memory with huge pages, which the host must have reserved.";

    hotplugMem = number 0 ''
      Maximum amount of memory, in MiB, that virtio-mem can add while the VM runs.
    '';

    hotpluggedMem = mkOption {
      type = ints.unsigned;
      default = cfg.hotplugMem;
      defaultText = literalExpression "config.microvm.hotplugMem";
      description = "Amount of `hotplugMem`, in MiB, that is plugged when the VM starts.";
    };

    balloon = flag false ''
      Adds a balloon, with which the host can reclaim memory from the running guest.
      If the hypervisor supports virtio-mem, that is better.
    '';

    initialBalloonMem = number 0 "Size of the balloon, in MiB, when the VM starts.";

    deflateOnOOM = flag true "Lets the guest reclaim memory from the balloon before it kills a process.";

    preStart = mkOption {
      type = types.lines;
      default = "";
      description = ''
        Shell commands that run first at each start, before volumes are checked and
        created, in the VM's state directory and as the hypervisor's user. Their
        exported variables, umask and limits also apply to `extraArgsScript` and
        the hypervisor.
      '';
    };

    extraArgsScript = maybe str ''
      Program that prints one line of further arguments for the hypervisor. It
      runs at every start, as the hypervisor's user.
    '';

    socket = mkOption {
      type = nullOr str;
      default = "${hostName}.sock";
      defaultText = literalExpression ''"''${config.networking.hostName}.sock"'';
      description = ''
        The hypervisor's control socket, as a path relative to the VM's state
        directory. Without it (`null`), the guest can be asked to shut down only over
        SSH, if `vsock.cid` is set (see `vsock.ssh.shutdown`), `balloon` is not
        allowed, and StratoVirt does not start.
      '';
    };

    user = maybe str "User that the runner switches to if root starts it, before it creates volumes or runs anything. Works with every hypervisor.";

    readiness = maybe (enum [
      "guest"
      "vmm"
      "none"
    ]) ''
      When the VM's unit is up: when the guest reports it over vsock (`guest`), when
      the hypervisor's control socket reports that the VM runs (`vmm`), or when the
      hypervisor has been started (`none`). `null` means `guest` if `vsock.cid` is
      set and the hypervisor can tell the guest where to report, otherwise `vmm`.
    '';

    prettyProcnames = flag true "Names the hypervisor's process `microvm@NAME`.";

    kernel = mkOption {
      type = types.package;
      default = config.boot.kernelPackages.kernel;
      defaultText = literalExpression "config.boot.kernelPackages.kernel";
      description = "Kernel package to boot. `boot.kernelPackages` is the better place to change it.";
    };

    initrdPath = mkOption {
      type = types.path;
      default = "${config.system.build.initialRamdisk}/${config.system.boot.loader.initrdFile}";
      defaultText = literalExpression ''"''${config.system.build.initialRamdisk}/''${config.system.boot.loader.initrdFile}"'';
      description = "Path of the initial RAM disk.";
    };

    kernelParams = mkOption {
      type = listOf str;
      description = ''
        Parameters for the kernel's command line, in addition to `boot.kernelParams`.
        They are not part of the guest's toplevel, so they may refer to it.
      '';
    };

    interfaces = mkOption {
      default = [ ];
      description = "Network interfaces of the guest.";
      type = listOf (submodule {
        options = {
          type = mkOption {
            type = enum [
              "user"
              "tap"
              "macvtap"
              "bridge"
            ];
            description = "Type of the interface.";
          };
          id = mkOption {
            type = str;
            description = "Name on the host, at most 15 bytes.";
          };
          mac = mkOption {
            type = str;
            description = "The guest's Ethernet address, such as `02:00:00:00:00:01`.";
          };
          tap.vhost = flag false ''
            Lets the host's kernel transfer the packets (vhost-net) instead of QEMU,
            which is faster under load.
          '';
          macvtap.link = maybe str "Interface of the host that a macvtap is attached to.";
          macvtap.mode = maybe (enum [
            "private"
            "vepa"
            "bridge"
            "passthru"
            "source"
          ]) "Mode of a macvtap interface.";
          bridge = maybe str "Bridge of the host that an interface of type `bridge` joins.";
        };
      });
    };

    forwardPorts = mkOption {
      default = [ ];
      example = literalExpression ''
        [
          # ssh -p 2222 localhost on the host reaches the guest
          { from = "host"; host.port = 2222; guest.port = 22; }
          # 10.0.2.10:80 in the guest's network is the host's own web server
          { from = "guest";
            guest = { address = "10.0.2.10"; port = 80; };
            host = { address = "127.0.0.1"; port = 80; };
          }
        ]
      '';
      description = ''
        Ports that are forwarded through an interface of type `user`, with QEMU
        only. IPv4 only. The guest's own firewall must allow them.
      '';
      type = listOf (submodule {
        options = {
          from = mkOption {
            type = enum [
              "host"
              "guest"
            ];
            default = "host";
            description = ''
              Who connects: `host` forwards a port of the host to the guest,
              `guest` an address in the guest's network to the host.
            '';
          };
          proto = mkOption {
            type = enum [
              "tcp"
              "udp"
            ];
            default = "tcp";
            description = "Protocol.";
          };
          host = endpoint "host";
          guest = endpoint "guest";
        };
      });
    };

    volumes = mkOption {
      default = [ ];
      description = "Disk images of the guest.";
      type = listOf (submodule {
        options = {
          image = mkOption {
            type = str;
            description = "Path of the image on the host, relative to the VM's state directory unless absolute.";
          };
          serial = maybe str "Serial number that the guest sees, 1 to 20 bytes.";
          direct = flag false "Bypasses the host's page cache (O_DIRECT).";
          readOnly = flag false "Makes the volume read-only for the guest.";
          shared = flag false ''
            For a disk that several VMs write at the same time. Nothing coordinates
            their accesses, so the guests need a cluster file system. It must be set
            in every VM that has the disk.
          '';
          label = maybe str ''
            Label of the file system. It is set when the image is created, and the
            guest finds the volume by it.
          '';
          mountPoint = maybe types.path "Where the guest mounts the volume; `null` means that it does not.";
          size = mkOption {
            type = types.int;
            default = 0;
            description = ''
              Size in MiB of an image that is created automatically. If it is raised
              later, the image grows.
            '';
          };
          autoCreate = flag true "Creates the image, with its file system, if it does not exist.";
          mkfsExtraArgs = words "Further arguments for mkfs.";
          fsType = mkOption {
            type = str;
            default = microvm-lib.defaultFsType;
            description = "File system to create and to mount.";
          };
          imageType = mkOption {
            type = enum [
              "raw"
              "qcow2"
              "vhd"
              "vhdx"
            ];
            default = "raw";
            description = "Format of the image. Images that are created automatically are raw.";
          };
        };
      });
    };

    shares = mkOption {
      default = [ ];
      description = "Directories of the host that the guest can mount.";
      type = listOf (
        submodule (
          { config, ... }:
          {
            options = {
              tag = mkOption {
                type = str;
                description = "Name of the share, unique in the VM.";
              };
              source = mkOption {
                type = types.nonEmptyStr;
                description = "Directory on the host, relative to the VM's state directory unless absolute.";
              };
              socket = mkOption {
                type = nullOr str;
                default = if config.proto == "virtiofs" then "${hostName}-virtiofs-${config.tag}.sock" else null;
                defaultText = literalExpression ''if proto == "virtiofs" then "''${hostName}-virtiofs-''${tag}.sock" else null'';
                description = "Socket of the share's virtiofsd, as a path relative to the VM's state directory.";
              };
              mountPoint = mkOption {
                type = types.path;
                description = "Where the guest mounts the share.";
              };
              proto = mkOption {
                type = enum [
                  "9p"
                  "virtiofs"
                ];
                default = "9p";
                description = ''
                  `9p` is built into some hypervisors. `virtiofs` is faster, and needs a
                  process on the host, which the host module starts.
                '';
              };
              securityModel = mkOption {
                type = enum [
                  "passthrough"
                  "none"
                  "mapped"
                  "mapped-file"
                ];
                default = "none";
                description = "How 9p stores the guest's owners and modes.";
              };
              readOnly = flag false "Makes the share read-only for the guest.";
              cache = mkOption {
                type = enum [
                  "auto"
                  "always"
                  "metadata"
                  "never"
                ];
                default = "auto";
                description = "How long the guest of a virtiofs share may cache what it has read.";
              };
              posixAcl = flag true ''
                Supports extended attributes and ACLs. Must be off if virtiofsd's
                `--translate-uid` or `--translate-gid` is used.
              '';
              extraArgs = words "Further arguments for this share's virtiofsd.";
            };
          }
        )
      );
    };

    devices = mkOption {
      default = [ ];
      description = "Devices of the host that are passed through to the guest.";
      example = literalExpression ''
        [
          { bus = "pci"; path = "0000:01:00.0"; }
          { bus = "usb"; path = "vendorid=0xabcd,productid=0x0123"; }
        ]
      '';
      type = listOf (submodule {
        options = {
          bus = mkOption {
            type = enum [
              "pci"
              "usb"
            ];
            description = "Bus of the device. `usb` is for QEMU only.";
          };
          path = mkOption {
            type = str;
            description = "PCI address as `lspci -D` prints it, or QEMU's selector of a USB device.";
          };
          qemu = {
            id = maybe str "Name of the device in QEMU.";
            bus = maybe str "QEMU's bus for the device, such as a port of `qemu.pcieRootPorts`.";
            deviceExtraArgs = maybe str "Further properties of QEMU's device, separated by commas.";
          };
        };
      });
    };

    vsock = {
      cid = maybe types.int ''
        The guest's address in AF_VSOCK, 3 or higher and unique on the host. Setting
        it enables vsock, and with it readiness reports by the guest and
        `microvm ssh`.
      '';
      ssh.enable = mkEnableOption "" // {
        description = ''
          Runs an SSH server in the guest that the host can reach over vsock,
          without a network: `microvm ssh NAME`. Requires `vsock.cid`.
        '';
      };
      ssh.shutdown = flag true ''
        If the hypervisor cannot ask the guest to shut down, runs the shutdown through
        the guest's SSH server, over vsock, as root and with a key that is new at
        every start. Without this option, or if no SSH server answers, such a
        hypervisor gets SIGTERM at once.
      '';
    };

    graphics = {
      enable = flag false ''
        Gives the guest a display. `gtk` opens a window, so it needs a desktop
        session; `headless` runs under systemd.
      '';
      backend = mkOption {
        type = enum [
          "gtk"
          "headless"
        ];
        default = "gtk";
        description = "Where QEMU shows the display.";
      };
      socket = mkOption {
        type = str;
        default = "${hostName}-gpu.sock";
        defaultText = literalExpression ''"''${config.networking.hostName}-gpu.sock"'';
        description = "Socket of the vhost-user GPU that cloud-hypervisor and crosvm use, as a path relative to the VM's state directory.";
      };
      vulkan = maybe (enum [
        "venus"
        "drm_native_context"
      ]) "How QEMU passes Vulkan through to the host's GPU.";
      hostmem = mkOption {
        type = str;
        default = "256M";
        description = "Size of the GPU's window into the host's memory, with the unit M or G. It is used with `vulkan` only.";
      };
      crosvmPackage = program "the vhost-user GPU of cloud-hypervisor and crosvm" pkgs.crosvm "pkgs.crosvm";
    };

    machineId = mkOption {
      type = nullOr str;
      default = microvm-lib.defaultMachineId hostName;
      defaultText = literalExpression "a UUID that is derived from config.networking.hostName";
      example = "a67472e5-570e-5c8a-b18c-ae3c77701050";
      description = ''
        UUID of the VM: in the guest's SMBIOS if the hypervisor has one, in its
        `/etc/machine-id`, and in systemd-machined.
      '';
    };

    registerWithMachined = flag false ''
      Shows the VM in `machinectl`. `machinectl terminate` stops it.
    '';

    credentialFiles = mkOption {
      type = attrsOf types.path;
      default = { };
      example = literalExpression ''{ SOPS_AGE_KEY = "/run/secrets/guest_age_key"; }'';
      description = ''
        Files of the host that the guest's systemd gets as credentials, by the
        credential's name. The hypervisor's user must be able to read them.
      '';
    };

    binScripts = mkOption {
      type = attrsOf types.lines;
      default = { };
      description = ''
        Further shell scripts for the runner's `bin/`, by file name. The programs that
        run the VM (`microvm-run` and the like) cannot be replaced.

        `tap-up`, `tap-down`, `macvtap-up`, `macvtap-down`, `pci-setup` and
        `virtiofsd-run` are for manual use and for hosts of microvm.nix. Commands that
        are set here come before (`lib.mkBefore`) or after (`lib.mkAfter`) the
        package's own, or replace them (`lib.mkForce`). The units of this project run
        none of these scripts, because root runs nothing of a package.

        The commands of `tap-up` are run by a host that declares the VM with `config`,
        like `microvm.host.tapScript`, once all taps of the VM are up.
      '';
    };

    # Set by that host as well.
    hostStateDir = mkOption {
      type = types.path;
      default = "/var/lib/microvms";
      internal = true;
      description = "The host's microvm.stateDir, to recognize paths in the VM's own directory.";
    };

    # Set by a host that declares the VM.
    hostRunsTapUp = mkOption {
      type = bool;
      default = false;
      internal = true;
      description = "Whether binScripts.tap-up is run.";
    };

    qemu = {
      machine = mkOption {
        type = str;
        default = if pkgs.stdenv.hostPlatform.isAarch64 then "virt" else "microvm";
        defaultText = literalExpression ''if pkgs.stdenv.hostPlatform.isAarch64 then "virt" else "microvm"'';
        description = "QEMU's machine model: `microvm`, `q35`, `virt`, …";
      };
      machineOpts = maybe (attrsOf str) "Options of the machine, which replace the defaults.";
      extraArgs = words "Further arguments for QEMU.";
      serialConsole = flag true "Connects the guest's serial port to the journal and to a socket.";
      pcieRootPorts = mkOption {
        default = [ ];
        example = literalExpression ''[ { id = "port0"; bus = "pcie.0"; chassis = 0; } ]'';
        description = ''
          PCIe root ports of the machines `q35` and `virt`, for devices that are
          hot-plugged or need a slot of their own.
        '';
        type = listOf (submodule {
          options = {
            id = mkOption {
              type = str;
              description = "Name of the port, unique in the VM.";
            };
            bus = maybe str "Bus that the port is on.";
            chassis = maybe types.int "Chassis number of the port.";
            slot = maybe str "Slot number of the port.";
            addr = maybe str "Address of the port on its bus.";
          };
        });
      };
      package = program "QEMU" (smallQEMU (
        if cfg.cpu == null then host.qemu_kvm else host.qemu
      )) "if config.microvm.cpu == null then config.microvm.vmHostPackages.qemu_kvm else config.microvm.vmHostPackages.qemu"
      // {
        description = ''
          Package that provides QEMU. With `optimize.enable`, the default is built
          without graphical libraries, unless the VM has a display or a 9p share. A
          package that is set here is used unchanged, except that it is rebuilt with
          USB support if the VM has USB devices.
        '';
      };
    };

    cloud-hypervisor = {
      platformOEMStrings = mkOption {
        type = listOf str;
        default = [ ];
        example = literalExpression ''[ "io.systemd.credential:APIKEY=supersecret" ]'';
        description = ''
          SMBIOS OEM strings for the guest, each without `oem_strings=` and brackets.
          They are merged with the one that tells the guest where to report
          readiness, and with a `--platform` in `extraArgs`.
        '';
      };
      landlock = mkOption {
        type = bool;
        default = true;
        description = ''
          Confines cloud-hypervisor to the VM's files with Landlock, if it is version 41
          or newer, the host's kernel is Linux 6.2 or newer, and the VM has neither
          devices nor graphics. Files that are added to the running VM must then be in
          its state directory.
        '';
      };
      extraArgs = words "Further arguments for cloud-hypervisor.";
      package = program "cloud-hypervisor" (
        if cfg.graphics.enable then
          host.cloud-hypervisor-graphics or (throw ''
            microvm.graphics with cloud-hypervisor requires a cloud-hypervisor that is patched for vhost-user GPUs
            hint: add an overlay with cloud-hypervisor-graphics, or set microvm.cloud-hypervisor.package
          '')
        else
          host.cloud-hypervisor
      ) "config.microvm.vmHostPackages.cloud-hypervisor, or cloud-hypervisor-graphics with graphics.enable";
    };

    firecracker = {
      cpu = maybe types.attrs "Custom CPU template.";
      driveIoEngine = mkOption {
        type = enum [
          "Async"
          "Sync"
        ];
        default = "Async";
        description = "How Firecracker reads and writes its drives.";
      };
      extraArgs = words "Further arguments for Firecracker.";
      extraConfig = mkOption {
        type = submodule {
          freeformType = attrsOf types.anything;
        };
        default = { };
        description = "Settings that are merged into Firecracker's configuration file.";
      };
      jailer = mkOption {
        type = bool;
        default = false;
        description = ''
          Gives the VM's unit its own root directory, with little more than the VM's
          files in it. This replaces Firecracker's jailer program.
        '';
      };
      package = program "Firecracker" host.firecracker "config.microvm.vmHostPackages.firecracker";
    };

    crosvm = {
      extraArgs = words "Further arguments for crosvm.";
      pivotRoot = maybe str "Empty directory that crosvm's sandbox uses as its root.";
      package = program "crosvm" host.crosvm "config.microvm.vmHostPackages.crosvm";
    };

    # Declared for configurations that are also for macOS and set these options under a
    # condition. An assertion fails if one is set here.
    vfkit = lib.mapAttrsRecursiveCond (o: !(lib.isOption o)) (_: o: o // { visible = false; }) {
      extraArgs = words "Further arguments for vfkit, which runs on macOS only.";
      logLevel = mkOption {
        type = nullOr (enum [
          "debug"
          "info"
          "error"
        ]);
        default = "info";
        description = "Log level of vfkit, which runs on macOS only.";
      };
      package = program "vfkit, which runs on macOS only" host.vfkit "config.microvm.vmHostPackages.vfkit";
      rosetta = {
        enable = flag false "Runs programs for x86_64 on a Mac with an ARM processor.";
        install = flag false "Installs Rosetta if it is missing.";
        ignoreIfMissing = flag false "Starts the VM without Rosetta if it is missing.";
      };
    };

    kvmtool.package = program "kvmtool" host.kvmtool "config.microvm.vmHostPackages.kvmtool";
    stratovirt.package = program "StratoVirt" host.stratovirt "config.microvm.vmHostPackages.stratovirt";
    alioth.package = program "Alioth" host.alioth "config.microvm.vmHostPackages.alioth";

    package = mkOption {
      type = types.package;
      default = host.callPackage ../../nix/package.nix { };
      defaultText = literalExpression "the programs of this flake, built with config.microvm.vmHostPackages";
      description = "The programs that the runner's scripts call.";
    };

    vmHostPackages = mkOption {
      type = types.pkgs;
      default = if cfg.cpu == null then pkgs else pkgs.buildPackages;
      defaultText = literalExpression "if config.microvm.cpu == null then pkgs else pkgs.buildPackages";
      description = "Package set of the host: it provides the hypervisor and the runner's programs.";
    };

    storeOnDisk = mkOption {
      type = bool;
      default = microvm-lib.hostStoreShare cfg.shares == null;
      defaultText = literalExpression ''no share has "/nix/store" as its source'';
      description = "Boots from a read-only image of the guest's store, instead of the host's store.";
    };

    storeDisk = mkOption {
      type = types.path;
      description = "The image of the guest's store. Generated.";
    };

    storeDiskType = mkOption {
      type = enum [
        "squashfs"
        "erofs"
      ];
      description = ''
        File system of the store's image: squashfs is smaller, erofs is faster. The
        default is erofs, except under the hardened profile, which forbids it.
      '';
    };

    storeDiskErofsFlags = mkOption {
      type = listOf str;
      default = [
        "-zlz4hc"
      ]
      ++ lib.optional (kernelAtLeast "5.16") "-Eztailpacking"
      ++ lib.optional (kernelAtLeast "6.1") "-Efragments";
      defaultText = literalExpression ''
        [ "-zlz4hc" ]
        ++ lib.optional (kernelAtLeast "5.16") "-Eztailpacking"
        ++ lib.optional (kernelAtLeast "6.1") "-Efragments"
      '';
      description = ''
        Arguments for mkfs.erofs. `-Ededupe` creates smaller images but takes much
        longer, because it is single-threaded.
      '';
    };

    storeDiskSquashfsFlags = mkOption {
      type = listOf str;
      default = [
        "-c"
        "zstd"
        "-j"
        "$NIX_BUILD_CORES"
      ];
      description = "Arguments for gensquashfs.";
    };

    storeDiskExcludedClosures = mkOption {
      type = listOf types.package;
      default = [ ];
      description = ''
        Packages whose closures are left out of the store's image, although the
        guest's system refers to them. You have to make sure that the guest works
        without them.
      '';
    };

    bootDisk = mkOption {
      type = types.path;
      description = "A bootable disk with kernel and initrd, for a hypervisor that loads neither. Generated on request.";
    };

    registerClosure = mkEnableOption "" // {
      default = cfg.guest.enable;
      defaultText = literalExpression "config.microvm.guest.enable";
      description = ''
        Registers the paths of the store in the guest's Nix database at each boot.
        This may conflict with a persistent writable overlay.
      '';
    };

    writableStoreOverlay = maybe str ''
      Directory, on a writable file system of the guest, for what is written to
      `/nix/store`. With it, Nix can build inside the guest.
    '';

    systemSymlink = mkOption {
      type = bool;
      default = !cfg.storeOnDisk;
      defaultText = literalExpression "!config.microvm.storeOnDisk";
      description = ''
        Makes the runner refer to the guest's toplevel, which `microvm list` shows.
        If the store is on a disk, this would also keep the uncompressed store.
      '';
    };

    spec = mkOption {
      type = types.attrs;
      readOnly = true;
      description = "The VM's spec, as it is written to JSON for `microvm build`. Generated.";
    };

    runner = mkOption {
      type = attrsOf types.package;
      description = "The VM's runner packages, one for each hypervisor. Generated.";
    };

    declaredRunner = mkOption {
      type = types.package;
      default = cfg.runner.${cfg.hypervisor};
      defaultText = literalExpression "config.microvm.runner.\${config.microvm.hypervisor}";
      description = "The runner package for the hypervisor that is set.";
    };

    deploy = {
      installOnHost = mkOption {
        type = types.package;
        description = ''
          Script that evaluates the VM locally, and builds and installs it on the given
          host: `… root@host.example.com`. Generated.
        '';
      };
      sshSwitch = mkOption {
        type = nullOr types.package;
        default = null;
        description = ''
          Script that switches the running guest to the new system over SSH instead
          of restarting it: `… root@vm.example.com switch`. `null` if the guest has no
          SSH server or does not use the host's store. Generated.
        '';
      };
      rebuild = mkOption {
        type = nullOr types.package;
        default = null;
        description = ''
          Script that does both: `… root@host.example.com root@vm.example.com switch`.
          If the guest cannot be switched, it is restarted. Generated.
        '';
      };
    };
  };
}
