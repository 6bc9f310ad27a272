# Everything that the tests look at, as values that JSON can hold.
#   nix-instantiate --eval --strict --json test/nix/eval.nix --arg lib 'import …/lib' -A guests
{
  lib ? import <nixpkgs/lib>,
}:

let
  pkgsFor = system: import ./stub-pkgs.nix { inherit lib system; };

  evaluate =
    pkgs: modules:
    lib.evalModules {
      modules = [
        ./stub-nixos.nix
        { _module.args.pkgs = pkgs; }
      ]
      ++ modules;
    };

  guest =
    {
      system ? "x86_64-linux",
      buildSystem ? system,
      config,
    }:
    evaluate (import ./stub-pkgs.nix { inherit lib system buildSystem; }) [
      ../../nixos-modules/microvm
      { networking.hostName = lib.mkDefault "web"; }
      config
    ];
  host =
    {
      system ? "x86_64-linux",
      config,
    }:
    evaluate (pkgsFor system) [
      ../../nixos-modules/host
      { networking.hostName = lib.mkDefault "server"; }
      config
    ];

  # This flake and the template's, with the stubs in place of nixpkgs.
  nixpkgs = {
    lib = lib // {
      nixosSystem = { system, modules }: evaluate (pkgsFor system) modules;
    };
    legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] pkgsFor;
  };
  self = (import ../../flake.nix).outputs {
    inherit self nixpkgs;
    spectrum = toString ./fake-spectrum;
  };
  template = (import ../../template/flake.nix).outputs {
    self = template;
    inherit nixpkgs;
    microvm = self;
  };

  # Every guest of examples/ and template/, as people get it: what runs it, and
  # the system where the example gives that.
  exampleRunners =
    let
      ofSystem = evaluated: {
        inherit (evaluated) config;
        runner = evaluated.config.microvm.declaredRunner;
      };
      ofFlake =
        flake:
        lib.mapAttrs (_: ofSystem) (
          lib.filterAttrs (_: evaluated: evaluated.config.microvm ? declaredRunner) flake.nixosConfigurations
        );
      nested = lib.concatMapAttrs (
        host: evaluated:
        lib.mapAttrs' (name: vm: lib.nameValuePair "${host}/${name}" (ofSystem vm.config)) (
          evaluated.config.microvm.vms or { }
        )
      ) self.nixosConfigurations;
    in
    ofFlake self
    // ofFlake template
    // lib.mapAttrs' (
      name: original:
      lib.nameValuePair "build-microvm/${name}" {
        runner =
          builtins.scopedImport
            {
              builtins = builtins // {
                getFlake =
                  flake:
                  {
                    self = self // {
                      inputs = { inherit nixpkgs; };
                    };
                    theirs.nixosConfigurations.web = original;
                  }
                  .${flake};
              };
            }
            ../../nix/flake-runner.nix
            {
              self = "self";
              flake = "theirs";
              name = "web";
              system = "x86_64-linux";
            };
      }
    ) cases.flakes
    // nested
    // {
      # The two that find nixpkgs by themselves.
      no-flake.runner =
        builtins.scopedImport { import = _: { system, modules }: nixpkgs.lib.nixosSystem { inherit system modules; }; }
          ../../examples/no-flake-microvm.nix
          { system = "x86_64-linux"; nixpkgs = "nixpkgs"; };
      graphics = ofSystem (
        builtins.scopedImport
          { builtins = builtins // { getFlake = name: { inherit self nixpkgs; }.${name}; }; }
          ../../examples/graphics.nix
          {
            self = "self";
            nixpkgs = "nixpkgs";
            system = "x86_64-linux";
            packages = "waypipe";
          }
      );
    };

  # Without the words that a release of nixpkgs puts around the message of a
  # removed option.
  own =
    message:
    let
      parts = lib.splitString "no longer has any effect; please remove it.\n" message;
    in
    if builtins.length parts == 1 then message else lib.trim (lib.last parts);
  failures = c: map (a: own a.message) (builtins.filter (a: !a.assertion) c.assertions);

  # Only what a host's own module says about units.
  services = lib.mapAttrs (
    _: service:
    lib.filterAttrs (_: v: v != { } && v != [ ] && v != null) {
      unit = service.unitConfig or { };
      service = lib.mapAttrs (_: v: if lib.isDerivation v then v.text else v) (service.serviceConfig or { });
      environment = lib.mapAttrs (_: toString) (service.environment or { });
      path = map toString (service.path or [ ]);
      triggers = map toString (service.restartTriggers or [ ]);
      requires = service.requires or [ ];
      wants = service.wants or [ ];
      after = service.after or [ ];
      before = service.before or [ ];
      partOf = service.partOf or [ ];
      wantedBy = service.wantedBy or [ ];
      script = if service.script == "" then null else service.script;
      # A unit of its own, or a drop-in.
      overrideStrategy = if service.overrideStrategy == "asDropin" then "asDropin" else null;
      restartIfChanged = if service.restartIfChanged then null else false;
    }
  );

  cases = import ./cases.nix { inherit lib; };

  # The services of a host, but for those that a host without VMs has as well. The
  # test hosts start two of them, which are whole.
  ofItsOwn =
    name: config:
    let
      all = services config.systemd.services;
      everywhere = services (host cases.hosts.with-no-vm).config.systemd.services;
    in
    if lib.elem name [ "with-no-vm" "with-a-vm-on-a-tap" ] then
      all
    else
      lib.filterAttrs (unit: service: service != everywhere.${unit} or null) all;

  runner = package: {
    inherit (package)
      name
      hypervisor
      canShutdown
      supportsNotifySocket
      tapMultiQueue
      registerWithMachined
      machineId
      text
      ;
  };

  # The options as data, for the documentation and for the comparison with Go.
  options =
    evaluated:
    map
      (
        o:
        {
          inherit (o) name;
          type = o.type or "unspecified";
          description = o.description.text or o.description or "";
          readOnly = o.readOnly or false;
        }
        // lib.optionalAttrs (o ? default) { default = o.default.text or (builtins.toJSON o.default); }
        // lib.optionalAttrs (o ? example) { example = o.example.text or (builtins.toJSON o.example); }
      )
      (
        builtins.filter (
          o: lib.hasPrefix "microvm." o.name && !(o.internal or false) && (o.visible or true) != false
        ) (lib.optionAttrSetToDocList evaluated.options)
      );
in
{
  # The spec of each guest, and what else its system gets.
  guests = lib.mapAttrs (
    _: case:
    let
      inherit ((guest case)) config;
    in
    {
      inherit (config.microvm) spec;
      failures = failures config;
      inherit (config) warnings;
      inherit (config.services.openssh) authorizedKeysFiles;
      fileSystems = lib.mapAttrs (_: fs: removeAttrs fs [ "noCheck" ]) config.fileSystems;
      runner = runner config.microvm.declaredRunner;
      # What these are run on, and by.
      scripts = lib.mapAttrs (_: toString) config.microvm.deploy;
      # The rest of what the modules make of the guest.
      system = {
        inherit (config.boot)
          initrd
          swraid
          kernelModules
          blacklistedKernelModules
          ;
        inherit (config.networking) hostId useNetworkd;
        waitOnline = config.systemd.network.wait-online.enable;
        tpm2 = config.systemd.tpm2.enable;
        etc = lib.mapAttrs (_: file: file.text or (toString file.source)) config.environment.etc;
        packages = map toString config.environment.systemPackages;
        documentation = config.documentation.enable;
        nixDaemon = config.systemd.services.nix-daemon.enable && config.systemd.sockets.nix-daemon.enable;
        gptGenerator = config.systemd.generators.systemd-gpt-auto-generator;
        openssh = config.services.openssh.enable;
        switch = config.system.switch.enable;
        grub = config.boot.loader.grub.enable;
        loadsRegistration = config.boot.postBootCommands != "";
        inherit (config.systemd) mounts;
      };
    }
  ) cases.guests;

  # The same of the examples, as far as the tests look at them.
  examples = lib.mapAttrs (
    _: example:
    {
      inherit (example.runner) spec;
      runner = runner example.runner;
    }
    // lib.optionalAttrs (example ? config) {
      failures = failures example.config;
      inherit (example.config) warnings;
      inherit (example.config.services.openssh) authorizedKeysFiles;
    }
  ) exampleRunners;

  # The shell scripts of a guest and of a host, for the tests to run.
  scripts =
    let
      inherit ((guest cases.guests.switchable).config) microvm boot;
      isolated = (guest cases.guests.qemu).config;
      web = (host cases.hosts.with-a-vm-that-needs-every-helper).config;
      tapped = (host cases.hosts.with-commands-for-a-vms-taps).config;
    in
    lib.mapAttrs (_: script: "set -euo pipefail\n${script}") {
      installOnHost = microvm.deploy.installOnHost.text;
      sshSwitch = microvm.deploy.sshSwitch.text;
      rebuild = microvm.deploy.rebuild.text;
      rebuildByRestart = isolated.microvm.deploy.rebuild.text;
      storeDisk = isolated.microvm.storeDisk.text;
      squashedStoreDisk = (guest cases.guests.with-squashfs).config.microvm.storeDisk.text;
      smallerStoreDisk = (guest cases.guests.with-less-in-the-store).config.microvm.storeDisk.text;
      bootDisk = isolated.microvm.bootDisk.text;
      runner = isolated.microvm.declaredRunner.text;
      inherit (web.microvm.host.package) postInstall;
      inherit (boot) postBootCommands;
      tapUp = (lib.findFirst (trigger: trigger ? text) null tapped.systemd.services."microvm@web".restartTriggers).text;
      orphans = web.systemd.services.microvm-orphans.serviceConfig.ExecStart.text;
    };

  # What each refused guest says.
  refused = lib.mapAttrs (_: case: failures (guest case).config) cases.refused;

  hosts = lib.mapAttrs (
    name: case:
    let
      inherit ((host case)) config;
    in
    {
      failures = failures config;
      services = ofItsOwn name config;
      inherit (config.systemd) targets;
      tmpfiles = config.systemd.tmpfiles.settings;
      inherit (config) warnings;
      inherit (config.microvm) autostart;
      # The VMs that it declares with config, and what it hands down to them.
      vms = lib.mapAttrs (
        _: vm:
        lib.filterAttrs (name: _: lib.elem name [ "name" "arch" "vcpu" "mem" "qemu" "virtiofsd" ]) vm.config.config.microvm.spec
      ) (lib.filterAttrs (_: vm: vm.config != null) config.microvm.vms);
      # The rest of what the module makes of the host.
      system = {
        inherit (config.boot) kernelModules;
        inherit (config.users) users groups;
        limits = config.security.pam.loginLimits;
        ksm = config.hardware.ksm.enable;
        inherit (config.security) wrappers;
        etc = lib.mapAttrs (_: file: file.text or (toString file.source)) config.environment.etc;
        packages = map toString config.environment.systemPackages;
        units = map toString config.systemd.packages;
      };
    }
  ) cases.hosts;

  paths = lib.genAttrs cases.paths (import ../../nix/lib.nix { inherit lib; }).cleanPath;

  # What a definition of somebody else's does on each unit, by section, priority,
  # form and key: it is the value (theirs), is added to ours (both), or is not there
  # (ours); or NixOS refuses to choose (conflict).
  settable =
    let
      keys = {
        service = [
          "AmbientCapabilities"
          "BindPaths"
          "BindReadOnlyPaths"
          "CPUQuota"
          "CacheDirectory"
          "CapabilityBoundingSet"
          "Delegate"
          "DeviceAllow"
          "ExecCondition"
          "ExecReload"
          "ExecStart"
          "ExecStartPost"
          "ExecStartPre"
          "ExecStop"
          "ExecStopPost"
          "Group"
          "IOWeight"
          "KeyringMode"
          "KillMode"
          "LimitMEMLOCK"
          "LimitNOFILE"
          "LockPersonality"
          "MemoryDenyWriteExecute"
          "MemoryMax"
          "Nice"
          "NoNewPrivileges"
          "NotifyAccess"
          "OOMPolicy"
          "PrivateTmp"
          "PrivateUsers"
          "ProtectClock"
          "ProtectControlGroups"
          "ProtectHostname"
          "ProtectKernelLogs"
          "ProtectKernelModules"
          "ProtectKernelTunables"
          "ProtectSystem"
          "RemainAfterExit"
          "Restart"
          "RestartMaxDelaySec"
          "RestartMode"
          "RestartPreventExitStatus"
          "RestartSec"
          "RestartSteps"
          "RestrictAddressFamilies"
          "RestrictNamespaces"
          "RestrictRealtime"
          "Slice"
          "SuccessExitStatus"
          "SupplementaryGroups"
          "SyslogIdentifier"
          "SystemCallArchitectures"
          "SystemCallFilter"
          "TemporaryFileSystem"
          "TimeoutSec"
          "TimeoutStartSec"
          "TimeoutStopSec"
          "Type"
          "UMask"
          "User"
          "WatchdogSec"
          "WorkingDirectory"
        ];
        unit = [
          "AssertPathExists"
          "ConditionPathExists"
          "ConditionVirtualization"
          "JobTimeoutSec"
          "RequiresMountsFor"
          "StartLimitBurst"
          "StartLimitIntervalSec"
          "StopWhenUnneeded"
        ];
      };
      priorities = {
        default = lib.mkDefault;
        plain = lib.id;
        "55" = lib.mkOverride 55;
        force = lib.mkForce;
      };
      forms = {
        text = "VALUE";
        list = [ "VALUE" ];
      };
      units = [
        "microvm@"
        "microvm-tap-interfaces@"
        "microvm-macvtap-interfaces@"
        "microvm-pci-devices@"
        "microvm-virtiofsd@"
        "microvm-set-booted@"
        "install-microvm-web"
      ];
      outcome =
        value:
        let
          tried = builtins.tryEval (builtins.deepSeq value value);
          all = map toString (lib.toList tried.value);
        in
        if !tried.success then
          "conflict"
        else if !(builtins.elem "VALUE" all) then
          "ours"
        else if builtins.length all == 1 then
          "theirs"
        else
          "both";
      outcomes =
        unit: section: priority: form:
        lib.mapAttrs (_: outcome)
          (host {
            config.microvm.vms.web.config = { };
            config.systemd.services.${unit}."${section}Config" = lib.genAttrs keys.${section} (_: priority form);
          }).config.systemd.services.${unit}."${section}Config";
    in
    lib.genAttrs units (
      unit:
      lib.mapAttrs (
        section: wanted:
        lib.mapAttrs (
          _: priority:
          lib.mapAttrs (_: form: lib.getAttrs wanted (outcomes unit section priority form)) forms
        ) priorities
      ) keys
    );

  # What others can name.
  outputs =
    let
      here = system: set: builtins.attrNames set.${system};
    in
    {
      outputs = builtins.attrNames self;
      lib = builtins.attrNames self.lib;
      nixosModules = builtins.attrNames self.nixosModules;
      apps = here "x86_64-linux" self.apps;
      packages = here "x86_64-linux" self.packages;
      overlay = builtins.attrNames (self.overlays.default (pkgsFor "x86_64-linux") (pkgsFor "x86_64-linux"));
      runner = builtins.attrNames (guest cases.guests.qemu).config.microvm.declaredRunner;
      graphics = self.packages.x86_64-linux.cloud-hypervisor-graphics.name;
    };

  # What guests' configurations call.
  functions = {
    values = self.lib.extractOptValues [ "-p" "--platform" ] [ "-v" "-p" "a" "--x" "--platform" "b" "-p" ];
    none = self.lib.extractOptValues "-p" [ ];
    value = self.lib.extractParamValue "socket" "cid=5,socket=v.sock,socket=w";
    similar = self.lib.extractParamValue "id" "cid=5";
    noText = self.lib.extractParamValue "socket" null;
    macvtap = self.lib.makeMacvtap {
      microvmConfig = {
        vcpu = 2;
        interfaces = [
          { type = "tap"; id = "t"; }
          { type = "macvtap"; id = "a"; }
          { type = "macvtap"; id = "b"; }
        ];
      };
      hypervisorConfig.tapMultiQueue = true;
    };
    volumes = (import ../../lib/volumes.nix { pkgs = pkgsFor "x86_64-linux"; }).createVolumesScript [
      {
        image = "data 1.img";
        size = 8;
        label = "it's data";
        mkfsExtraArgs = null;
      }
      {
        image = "there.img";
        autoCreate = false;
      }
      {
        image = "small.img";
        size = 8;
        label = null;
        fsType = "ext2";
        autoCreate = true;
        mkfsExtraArgs = [
          "-m"
          "0"
        ];
      }
    ];
    noVolumes = (import ../../lib/volumes.nix { pkgs = pkgsFor "x86_64-linux"; }).createVolumesScript [ ];
  };

  # The hosts that are refused.
  refusedHosts = lib.mapAttrs (_: case: failures (host case).config) cases.refusedHosts;

  options = {
    guest = options (guest { config = { }; });
    host = options (host { config = { }; });
  };
}
