# A package set for a test host: nixpkgs' own library, stdenv and builders, over
# the programs of a Debian root. What stands in for a package of nixpkgs:
#
# - for those that are listed in `debian`, links to the files of Debian packages;
# - for any other, an empty package, so that what only names it can be evaluated;
# - for a Go package, its real postInstall after programs that were built before.
#
# Nothing is fetched or compiled.
{
  # A tree laid out as nixpkgs: lib/, nixos/, pkgs/.
  nixpkgs,
  # Names that the tree's modules take from pkgs, with those that they take from
  # these, and files that they take from systemd's examples.
  names,
  examples,
  # Directory with the Go programs, in which `path` stands for their package, a
  # store path as long as the real one.
  programs,
  # The test guest's kernel and initrd.
  guest,
  # A program of switch-to-configuration-ng.
  switcher ? null,
}:

let
  # With what microvm.nix takes from a newer one.
  lib = (import (nixpkgs + "/lib")).extend (
    _: prev: {
      replaceString = prev.replaceString or (from: to: prev.replaceStrings [ from ] [ to ]);
    }
  );
  system = "x86_64-linux";
  platform = lib.systems.elaborate system;
  support = nixpkgs + "/pkgs/build-support";

  config =
    (lib.evalModules {
      modules = [
        (nixpkgs + "/pkgs/top-level/config.nix")
        { _module.args.pkgs = { }; }
      ];
    }).config;

  stdenv = import (nixpkgs + "/pkgs/stdenv/generic") {
    name = "stdenv-over-debian";
    inherit config;
    buildPlatform = platform;
    hostPlatform = platform;
    targetPlatform = platform;
    cc = null;
    shell = "/bin/bash";
    initialPath = [ "/usr" ];
    fetchurlBoot = _: throw "this test fetches nothing";
    preHook = "export NIX_ENFORCE_PURITY=";
  };

  # A package with further attributes, whatever is asked of it. One output stands
  # for all.
  extended =
    package: more:
    lib.fix (
      self:
      package
      // lib.genAttrs [ "out" "bin" "dev" "lib" "man" "doc" "info" ] (_: self)
      // lib.genAttrs [ "override" "overrideAttrs" "withPackages" ] (_: _: self)
      // more
    );

  # A package without nixpkgs' stdenv, which takes much longer than a few links.
  plain =
    name: attrs: script:
    extended (
      derivation (
        {
          inherit name system;
          builder = "/bin/bash";
          # Bash would run the last command in its own place, and nix kills a
          # builder that has closed its output but not yet exited.
          args = [
            "-euc"
            "export PATH=/usr/bin; ${script}\n:"
          ];
        }
        // attrs
      )
    ) {
      pname = name;
      version = "257.0";
      meta = {
        mainProgram = name;
        outputsToInstall = [ "out" ];
      };
      passthru = { };
    };

  empty = name: plain name { } "mkdir -p $out/bin $out/lib $out/share";

  # Links to the files of Debian packages, in nixpkgs' layout.
  links =
    name: packages: more:
    plain name { inherit packages; } ''
      mkdir -p $out/bin
      for package in $packages; do
        list=/var/lib/dpkg/info/$package.list
        [ -e $list ] || list=/var/lib/dpkg/info/$package:amd64.list
        while read -r file; do
          [ -d "$file" ] && continue
          case $file in
            /usr/bin/* | /usr/sbin/* | /bin/* | /sbin/*) ln -sf $file $out/bin/ ;;
            # NixOS puts units elsewhere, and Debian's own place is empty then.
            */systemd/system/*)
              dir=''${file%/*} dir=$out/lib/systemd/system''${dir#*/systemd/system}
              mkdir -p $dir
              cp -P $file $dir/ ;;
            /usr/share/doc/* | /usr/share/man/* | /usr/share/locale/* | /usr/share/zoneinfo/*) ;;
            /usr/* | /lib/*)
              dir=''${file%/*} dir=''${dir#/usr}
              mkdir -p $out$dir
              ln -sf $file $out$dir/ ;;
          esac
        done < $list
      done
      ln -s bin $out/sbin
      ${more}
    '';

  debian = lib.mapAttrs (name: packages: links name packages "") {
    btrfs-progs = "btrfs-progs";
    bzip2 = "bzip2";
    diffutils = "diffutils";
    dosfstools = "dosfstools";
    e2fsprogs = "e2fsprogs";
    findutils = "findutils";
    getent = "libc-bin";
    glibc = "libc-bin";
    gnugrep = "grep";
    gnused = "sed";
    gnutar = "tar";
    gzip = "gzip";
    iproute2 = "iproute2";
    iputils = "iputils-ping";
    jq = "jq";
    kmod = "kmod";
    less = "less";
    openssh = "openssh-client openssh-server";
    perl = "perl-base perl";
    procps = "procps";
    psmisc = "psmisc";
    qemu = "qemu-system-x86 qemu-system-common qemu-system-data qemu-utils";
    shadow = "passwd login login.defs";
    socat = "socat";
    util-linux = "util-linux mount bsdutils";
    virtiofsd = "virtiofsd";
    xfsprogs = "xfsprogs";
    xz = "xz-utils";
    zstd = "zstd";
  };

  # Its units are copies: links would follow what NixOS makes of them. One that
  # Debian's systemd has not is empty.
  systemd = extended (links "systemd" "systemd systemd-sysv systemd-container udev dbus" ''
    mkdir -p $out/example/systemd
    for kind in system user; do
      rm -rf $out/lib/systemd/$kind $out/lib/systemd/system
      cp -a /usr/lib/systemd/$kind $out/example/systemd/
      chmod -R u+w $out/example/systemd/$kind
      # Units of Debian's own, and of other packages.
      rm -rf $out/example/systemd/$kind/*.wants/microvm*
    done
    for wants in sysinit sockets local-fs multi-user timers basic; do
      mkdir -p $out/example/systemd/system/$wants.target.wants
    done
    mkdir -p $out/example/sysctl.d $out/example/tmpfiles.d $out/example/systemd/user/default.target.wants
    cp -L /usr/lib/tmpfiles.d/* $out/example/tmpfiles.d/
    cp -L /usr/lib/sysctl.d/* $out/example/sysctl.d/ 2>/dev/null || true
    ln -sf /usr/lib/systemd/systemd $out/bin/init
    for file in ${toString examples}; do
      file=$out/example/$file
      [ -e $file ] || [ -h $file ] && continue
      mkdir -p ''${file%/*}
      case $file in
        */systemd/system/*) printf '[Unit]\nDescription=Stand-in, for Debian has none\n' > $file ;;
        *) printf '# Stand-in: %s is Debian, which has none.\n' $out > $file ;;
      esac
    done
  '') (without [
    "Analyze" "Bootloader" "Coredump" "Cryptsetup" "Efi" "Fido2" "Homed" "Hostnamed" "Hwdb" "Importd" "Kmod" "Libarchive"
    "Localed" "Logind" "Machined" "Networkd" "Nspawn" "Nss" "Oomd" "Portabled" "Repart" "Resolved" "Sysupdate" "Sysusers"
    "Timedated" "Timesyncd" "Tpm2Tss" "Tpm2Units" "Utmp" "Vmspawn"
  ] // {
    withHostnamed = true;
    withKmod = true;
    withLogind = true;
    withMachined = true;
    withNetworkd = true;
    interfaceVersion = 2;
    util-linux = debian.util-linux;
    kmod = debian.kmod;
  });
  without = features: lib.genAttrs (map (name: "with${name}") features) (_: false);

  kernel = extended (plain "linux" { inherit guest; } "mkdir -p $out/lib/modules/6.12; cp $guest/vmlinuz $out/bzImage; cp $guest/vmlinuz $out/vmlinux") {
    version = "6.12";
    modDirVersion = "6.12";
    features = { };
    isModular = true;
    isHardened = false;
    isZen = false;
    isLibre = false;
    kernelAtLeast = _: true;
    kernelOlder = _: false;
    target = "bzImage";
    config = lib.genAttrs [ "isSet" "isYes" "isNo" "isModule" "isEnabled" "isDisabled" ] (_: _: true);
    configfile = "";
    kernelPatches = [ ];
    stdenv = stdenv;
    commonStructuredConfig = { };
  };

  goProgram =
    attrs:
    stdenv.mkDerivation {
      inherit (attrs)
        pname
        version
        src
        postInstall
        meta
        ;
      inherit programs;
      dontBuild = true;
      dontFixup = true;
      installPhase = ''
        placeholder=$(cat $programs/path)
        if [ ''${#placeholder} != ''${#out} ]; then
          echo "the programs are built for a package with another name: $placeholder, $out" >&2
          exit 1
        fi
        mkdir -p $out/bin
        for program in $programs/bin/*; do
          sed "s|$placeholder|$out|g" $program > $out/bin/''${program##*/}
          chmod +x $out/bin/''${program##*/}
        done
        runHook postInstall
      '';
    };

  # The names that builders of nixpkgs take, which are known before the set is.
  known =
    self:
    lib.genAttrs (
      lib.attrNames names
      ++ [
        "buildPackages"
        "callPackage"
        "config"
        "lib"
        "pkgs"
        "runCommand"
        "runtimeShell"
        "stdenv"
        "stdenvNoCC"
        "substituteAll"
        "writeText"
        "shellcheck-minimal"
        "lndir"
      ]
    ) (name: self.${name} or (empty name));
  # Names that modules make of strings, and those below `with pkgs`.
  indirect = [
    "fish"
    "xonsh"
    "zsh"
  ];

  call = self: file: args: lib.callPackageWith (known self) (support + file) args;
  ifThere = path: value: lib.optionalAttrs (builtins.pathExists (support + path)) value;

  base =
    self:
    lib.genAttrs indirect empty
    // lib.mapAttrs (name: inner: lib.genAttrs inner empty // empty name) names
    // debian
    // {
      _type = "pkgs";
      inherit
        config
        lib
        system
        systemd
        ;
      # Modules ask its compiler for the C library.
      stdenv = stdenv // {
        cc = empty "cc" // {
          libc = debian.glibc;
          bintools.dynamicLinker = "/lib64/ld-linux-x86-64.so.2";
        };
      };
      path = nixpkgs;
      overlays = [ ];
      stdenvNoCC = stdenv;
      buildPackages = self;
      targetPackages = self;
      pkgsBuildBuild = self;
      pkgsBuildHost = self;
      pkgs = self;
      __splicedPackages = self;
      hostPlatform = platform;
      callPackage = lib.callPackageWith self;
      callPackages = lib.callPackagesWith self;
      newScope = extra: lib.callPackageWith (self // extra);
      appendOverlays = overlays: make (self.overlays ++ overlays);
      extend = overlay: self.appendOverlays [ overlay ];

      runtimeShell = "${self.bash}/bin/bash";
      runtimeShellPackage = self.bash;
      bashInteractive = self.bash;
      # Activation replaces /usr/bin/env and /bin/sh by links to these.
      coreutils = links "coreutils" "coreutils" "cp --remove-destination /usr/bin/env $out/bin/";
      bash = extended (links "bash" "bash" "ln -s /usr/bin/bash $out/bin/sh") { shellPath = "/bin/bash"; };
      coreutils-full = self.coreutils;
      gawk = plain "gawk" { } "mkdir -p $out/bin; ln -s /usr/bin/mawk $out/bin/awk; ln -s /usr/bin/mawk $out/bin/gawk";
      netcat = plain "netcat" { } "mkdir -p $out/bin; ln -s /usr/bin/nc.openbsd $out/bin/nc";
      perlPackages = lib.genAttrs [ "ConfigIniFiles" "FileSlurp" "JSON" "NetDBus" "XMLParser" "XMLTwig" ] empty;
      dbus = links "dbus" "dbus dbus-bin dbus-daemon dbus-session-bus-common dbus-system-bus-common" "";
      shadow = extended debian.shadow {
        su = plain "su" { } "mkdir -p $out/bin; ln -s /usr/bin/su $out/bin/su";
        shellPath = "/bin/nologin";
      };
      util-linuxMinimal = self.util-linux;
      systemdMinimal = self.systemd;
      qemu_kvm = self.qemu;
      qemu-utils = self.qemu;
      glibcLocales = plain "glibc-locales" { } "mkdir -p $out/lib/locale; touch $out/lib/locale/locale-archive";
      tzdata = plain "tzdata" { } "mkdir -p $out/share; ln -s /usr/share/zoneinfo $out/share/zoneinfo";
      linux = kernel;
      linuxPackages = lib.makeExtensible (_: { inherit kernel stdenv; });
      linuxPackages_latest = self.linuxPackages;
      linuxPackagesFor = _: self.linuxPackages;
      pkgsCross = { };
      pkgsi686Linux = self;

      pam = plain "pam" { } "mkdir -p $out/lib; ln -s /usr/lib/x86_64-linux-gnu/security $out/lib/";
      libxcrypt = empty "libxcrypt" // {
        enabledCryptSchemeIds = [ "6" ];
      };
      lndir = plain "lndir" { } ''
        mkdir -p $out/bin
        printf '#!/bin/sh\n[ "$1" != -silent ] || shift\nexec cp -rs --remove-destination "$1/." "''${2:-.}"\n' > $out/bin/lndir
        chmod +x $out/bin/lndir
      '';
      cacert = extended (empty "cacert") { p11kit = self.cacert; };
      # Of guests that never run.
      aggregateModules = _: empty "modules";
      makeModulesClosure = _: empty "modules";
      makeInitrd = _: self.testGuest;
      makeInitrdNG = _: self.testGuest;
      compressFirmwareXz = firmware: firmware;
      compressFirmwareZstd = firmware: firmware;
      # Debian's own, which have Debian's directories.
      makeDBusConf = _: plain "dbus-1" { } ''
        mkdir $out
        for bus in system session; do
          sed "/<include.*etc.dbus-1.$bus.conf/d" /usr/share/dbus-1/$bus.conf > $out/$bus.conf
        done
      '';

      # An archive stands for an image, and nobody but nix may make namespaces there.
      erofs-utils = plain "erofs-utils" { } ''
        mkdir -p $out/bin
        printf '#!/bin/sh\nfor to; do from=$of of=$to; done\nexec tar -cf "$from" "$to"\n' > $out/bin/mkfs.erofs
        chmod +x $out/bin/mkfs.erofs
      '';
      bubblewrap = plain "bubblewrap" { } "mkdir -p $out/bin; ln -s /usr/bin/false $out/bin/bwrap";

      switch-to-configuration-ng =
        if switcher == null then
          empty "switch-to-configuration-ng"
        else
          plain "switch-to-configuration-ng" { inherit switcher; } "install -D -m 755 $switcher $out/bin/switch-to-configuration"
          // {
            meta.mainProgram = "switch-to-configuration";
          };

      buildGoModule = goProgram;
      fetchurl = _: throw "this test fetches nothing";
      testGuest = extended (plain "test-guest" { inherit guest; } "mkdir $out; cp $guest/vmlinuz $out/bzImage; cp $guest/vmlinuz $out/vmlinux; cp $guest/initrd $out/initrd; truncate -s 1M $out/store") {
        target = "bzImage";
        compressorExecutableFunction = _: "/usr/bin/gzip";
        compressorArgs = [ ];
      };

      # nixpkgs' own builders.
      inherit (lib.callPackageWith (known self) (nixpkgs + "/pkgs/pkgs-lib") { pkgs = self; }) formats;
      buildEnv = call self "/buildenv" { };
      closureInfo = call self "/closure-info.nix" { };
      writers = call self "/writers" { };
      makeWrapper = self.makeShellWrapper;
      makeShellWrapper = self.makeSetupHook {
        name = "make-shell-wrapper-hook";
        propagatedBuildInputs = [ ];
        substitutions.shell = "/bin/bash";
      } (support + "/setup-hooks/make-wrapper.sh");
    }
    // ifThere "/substitute/substitute.nix" { substitute = call self "/substitute/substitute.nix" { }; }
    // ifThere "/substitute/substitute-all.nix" { substituteAll = call self "/substitute/substitute-all.nix" { }; }
    // ifThere "/replace-vars" (lib.callPackagesWith (known self) (support + "/replace-vars") { });

  trivial =
    self:
    removeAttrs (lib.callPackageWith (known self) (support + "/trivial-builders") { }) [
      "override"
      "overrideDerivation"
    ];

  make =
    overlays:
    lib.fix (
      self:
      let
        first = base self // trivial self // {
          inherit overlays;
        };
      in
      lib.foldl' (done: overlay: done // overlay self done) first overlays
    );
in
make [ ]
