# A package set for evaluation only: every package is a name with a store path
# that never exists, every builder keeps what it was given. It needs nixpkgs'
# lib and nothing else of nixpkgs, so results do not change with nixpkgs.
{
  lib,
  system ? "x86_64-linux",
  # Where the packages are built, if they are built for another machine.
  buildSystem ? system,
  # Further names that evaluate to packages.
  names ? [ ],
  path ? ./fake-nixpkgs,
}:

let
  # 32 characters, as a store path has them. Cross-compiled packages show by it.
  hash = if buildSystem == system then "00000000000000000000000000000000" else "cccccccccccccccccccccccccccccccc";

  stub =
    name: attrs:
    let
      self = {
        type = "derivation";
        inherit name system;
        pname = name;
        version = "1.0";
        outPath = "/nix/store/${hash}-${name}";
        drvPath = "/nix/store/${hash}-${name}.drv";
        outputName = "out";
        outputs = [ "out" ];
        out = self;
        dev = self // {
          outPath = "/nix/store/${hash}-${name}-dev";
        };
        meta = {
          mainProgram = name;
        };
        passthru = { };
        # The flag shows in the name.
        override = lib.setFunctionArgs (
          { nixosTestRunner ? false, ... }: if nixosTestRunner then stub "${name}-for-tests" attrs else self
        ) { nixosTestRunner = true; };
        overrideAttrs = f: stub name (attrs // (if lib.isFunction f then f attrs else f));
        __toString = s: s.outPath;
      }
      // attrs;
    in
    self;

  command =
    name: env: text:
    stub name ({ inherit text; buildCommand = text; } // env.passthru or { } // { env = removeAttrs env [ "passthru" "meta" ]; });

  writeText = name: text: stub name { inherit text; };

  pkgs = lib.genAttrs (packages ++ names) (name: stub name { }) // {
    _type = "pkgs";
    inherit lib path stub system;
    config = { };
    overlays = [ ];
    stdenv = {
      hostPlatform = lib.systems.elaborate system;
      buildPlatform = lib.systems.elaborate buildSystem;
      targetPlatform = lib.systems.elaborate system;
    };
    buildPackages =
      if buildSystem == system then
        pkgs
      else
        import ./stub-pkgs.nix {
          inherit lib names path;
          system = buildSystem;
        };
    callPackage =
      file: args:
      let
        f = if lib.isFunction file then file else import file;
      in
      f (builtins.intersectAttrs (lib.functionArgs f) pkgs // args);
    buildGoModule = attrs: stub attrs.pname { inherit (attrs) ldflags postInstall; };
    runCommand = command;
    runCommandLocal = command;
    inherit writeText;
    writeShellScript = writeText;
    writeShellScriptBin = writeText;
    writeClosure = paths: "/nix/store/${hash}-closure-of-${lib.concatMapStringsSep "-" (p: p.name) paths}";
    closureInfo = _: stub "closure-info" { };
    linux.target = (lib.systems.elaborate system).linux-kernel.target;
    runtimeShell = "/nix/store/${hash}-bash/bin/bash";
    linuxPackages.kernel = stub "linux" { version = "6.12"; };
  };

  packages = [
    "alioth"
    "btrfs-progs"
    "bubblewrap"
    "cloud-hypervisor"
    "cloud-hypervisor-graphics"
    "coreutils"
    "crosvm"
    "dosfstools"
    "e2fsprogs"
    "erofs-utils"
    "firecracker"
    "foot"
    "gptfdisk"
    "initrd"
    "iproute2"
    "kmod"
    "kvmtool"
    "libusb1"
    "mtools"
    "netcat"
    "nix"
    "qemu"
    "qemu-utils"
    "qemu_kvm"
    "squashfs-tools-ng"
    "stratovirt"
    "vfkit"
    "systemd"
    "virtiofsd"
    "waypipe"
    "wayland-proxy-virtwl"
    "xfsprogs"
  ];
in
pkgs
