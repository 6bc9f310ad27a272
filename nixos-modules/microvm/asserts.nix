# Assertions and warnings about settings that cannot work. `microvm build` checks
# all of them again, and more; these are the common ones, reported during evaluation
# and with the names of the options.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  vm = "MicroVM ${config.networking.hostName}: ";
  inherit (import ../../nix/lib.nix { inherit lib; })
    capabilities
    cleanPath
    helperScripts
    hypervisors
    isMachineName
    onlyOwn
    runnerScripts
    socketElsewhere
    socketPath
    ;
  capability = capabilities.${cfg.hypervisor};

  refuse = wrong: message: {
    assertion = !wrong;
    message = vm + message;
  };

  # One assertion for each value of `key` that more than one element has.
  unique =
    what: key: list:
    lib.mapAttrsToList (
      value: same:
      refuse (builtins.length same > 1)
        "${what} \"${value}\" is used ${toString (builtins.length same)} times\nhint: give each its own"
    ) (builtins.groupBy key list);

  # A warning for each mount point of several volumes or shares: NixOS mounts only one
  # of them, without a warning.
  mountedOver =
    what: name: list:
    lib.concatLists (
      lib.mapAttrsToList (
        mountPoint: same:
        lib.optional (builtins.length same > 1)
          "${vm}${what} ${lib.concatMapStringsSep ", " (one: "\"${name one}\"") same} have the same mount point ${mountPoint}, and only the first is mounted\nhint: give each its own"
      ) (builtins.groupBy ({ mountPoint, ... }: cleanPath mountPoint) (
        builtins.filter ({ mountPoint, ... }: mountPoint != null) list
      ))
    );

  # The hypervisors that support what this VM's hypervisor does not, as a hint.
  others =
    has:
    let
      able = builtins.filter (name: has capabilities.${name}) hypervisors;
    in
    lib.optionalString (able != [ ]) "\nhint: use one of: ${lib.concatStringsSep ", " able}";

  needs =
    wanted: has: option: what:
    refuse (wanted && !(has capability)) "microvm.${option}: ${cfg.hypervisor} does not support ${what}${others has}";

  withName = cfg // { inherit (config.networking) hostName; };

  # The programs create, find and remove sockets in the state directory only.
  beneath =
    option: path:
    refuse
      (path != null && builtins.elem (baseNameOf (cleanPath path)) [ "" "." ".." ] || lib.hasSuffix "/" (toString path))
      "${option} is \"${toString path}\", which is not the path of a file\nhint: use a plain relative path, such as \"vm.sock\"";
  elsewhere =
    option: path:
    lib.optional (path != null && socketElsewhere withName path) ''
      ${vm}${option} is "${path}", outside the VM's state directory, so "${socketPath withName path}" in the state directory is used instead
      hint: set it to "${socketPath withName path}", and let clients connect to it in /var/lib/microvms/${config.networking.hostName}'';
  # Each share is served by the VM's own virtiofsd, never by another program.
  shareElsewhere =
    { tag, socket, ... }:
    lib.optional (socket != null && socketElsewhere withName socket) ''
      ${vm}the socket of virtiofs share "${tag}" is "${socket}", outside the VM's state directory, so "${socketPath withName socket}" in the state directory is used instead
      hint: set it to "${socketPath withName socket}", or leave it out; if another program serves the share, remove the share and pass that program's socket to the hypervisor in extraArgs'';

  # The scripts to which a configuration adds commands.
  said = lib.filter (name: !(onlyOwn (cfg.binScripts.${name} or ""))) ;

  # The options of vfkit that a configuration sets, except under a false condition.
  vfkit = builtins.attrNames (
    lib.filterAttrs (_: option: option.highestPrio < (lib.mkOptionDefault null).priority) (
      removeAttrs options.microvm.vfkit [ "rosetta" ]
      // lib.mapAttrs' (name: lib.nameValuePair "rosetta.${name}") options.microvm.vfkit.rosetta
    )
  );

  virtiofs = builtins.filter ({ proto, ... }: proto == "virtiofs") cfg.shares;
  translates = lib.any (
    word: lib.hasInfix "--translate-uid" word || lib.hasInfix "--translate-gid" word
  );
  has = field: c: c.${field};
  hasElem =
    field: value: c:
    builtins.elem value c.${field};
in
lib.mkIf cfg.guest.enable {
  assertions =
    unique "volume image" ({ image, ... }: cleanPath image) cfg.volumes
    ++ unique "interface id" ({ id, ... }: id) cfg.interfaces
    ++ unique "share tag" ({ tag, ... }: tag) cfg.shares
    ++ unique "share socket" ({ socket, ... }: toString socket) (
      builtins.filter ({ socket, ... }: socket != null) virtiofs
    )
    ++ map (
      { image, autoCreate, size, ... }:
      refuse (autoCreate && size <= 0)
        "volume \"${image}\" has no size\nhint: set its size in MiB, or set autoCreate = false if the image exists"
    ) cfg.volumes
    ++ map (
      { id, type, bridge, ... }:
      refuse (type == "bridge" && bridge == null)
        "interface \"${id}\" has type \"bridge\" but no bridge\nhint: set its option bridge"
    ) cfg.interfaces
    ++ map (
      { id, type, bridge, ... }:
      refuse (type != "bridge" && bridge != null)
        "interface \"${id}\" has a bridge but type \"${type}\"\nhint: set its type to \"bridge\", or remove the bridge"
    ) cfg.interfaces
    ++ map (
      { id, type, macvtap, ... }:
      refuse (type == "macvtap" && (macvtap.link == null || macvtap.mode == null))
        "interface \"${id}\" of type \"macvtap\" requires macvtap.link and macvtap.mode"
    ) cfg.interfaces
    ++ map (
      { id, ... }:
      refuse (builtins.stringLength id > 15)
        "interface id \"${id}\" has ${toString (builtins.stringLength id)} characters, and Linux allows 15"
    ) cfg.interfaces
    ++ map (
      { id, type, ... }:
      refuse
        (
          builtins.elem type [ "tap" "macvtap" ]
          && builtins.elem id [ "all" "default" "lo" ]
        )
        "interface id \"${id}\" is reserved by Linux\nhint: choose another, such as \"vm-web\""
    ) cfg.interfaces
    ++ [
      (refuse
        (
          cfg.hypervisor == "qemu"
          && cfg.cpu != null
          && builtins.head (lib.splitString "," cfg.cpu) == "host"
          && cfg.vmHostPackages.stdenv.hostPlatform.parsed.cpu.name != pkgs.stdenv.hostPlatform.parsed.cpu.name
          && cfg.qemu.machineOpts == null
          && cfg.qemu.extraArgs == [ ]
        )
        "microvm.cpu is \"host\", but the guest's architecture differs from the host's, so QEMU has to emulate the CPU\nhint: set it to a CPU model, or to \"max\""
      )
    ]
    ++ map (
      { tag, socket, ... }:
      refuse (socket == null) "virtiofs share \"${tag}\" has no socket\nhint: set its option socket, or leave it out"
    ) virtiofs
    ++ map (
      { tag, socket, ... }: beneath "the socket of virtiofs share \"${tag}\"" socket
    ) virtiofs
    ++ [ (beneath "microvm.socket" cfg.socket) ]
    ++ lib.optional cfg.graphics.enable (beneath "microvm.graphics.socket" cfg.graphics.socket)
    ++ map (
      { tag, posixAcl, extraArgs, ... }:
      refuse (posixAcl && translates (cfg.virtiofsd.extraArgs ++ extraArgs))
        "virtiofs share \"${tag}\": posixAcl cannot be combined with --translate-uid or --translate-gid, in its extraArgs or in microvm.virtiofsd.extraArgs\nhint: set posixAcl = false"
    ) virtiofs
    ++ [
      (refuse (cfg.forwardPorts != [ ] && !(builtins.any ({ type, ... }: type == "user") cfg.interfaces))
        "microvm.forwardPorts requires an interface of type \"user\""
      )
      (refuse
        (
          cfg.hypervisor == "cloud-hypervisor"
          && lib.any (lib.hasInfix "oem_strings") cfg.cloud-hypervisor.platformOEMStrings
        )
        "microvm.cloud-hypervisor.platformOEMStrings must not contain \"oem_strings\"\nhint: list the strings only"
      )
      (refuse
        (
          cfg.writableStoreOverlay != null
          && (config.nix.optimise.automatic || config.nix.settings.auto-optimise-store or false)
        )
        "microvm.writableStoreOverlay cannot be combined with nix.optimise.automatic or nix.settings.auto-optimise-store, as hard links cannot cross the layers of the overlay\nhint: disable them"
      )
      (refuse (vfkit != [ ])
        "microvm.vfkit.${lib.concatStringsSep ", microvm.vfkit." vfkit} is set, but vfkit runs on macOS only, and these modules run VMs under systemd on Linux\nhint: remove it, or set it only if the host is a Mac (lib.mkIf), or keep microvm.nix for that machine"
      )
      (needs (cfg.forwardPorts != [ ]) (has "forwardPorts") "forwardPorts" "forwarded ports")
      (needs (cfg.cpu != null) (has "cpu") "cpu" "an emulated CPU")
      (needs cfg.graphics.enable (has "graphics") "graphics.enable" "a display")
      (needs cfg.balloon (has "balloon") "balloon" "a balloon")
      (needs (cfg.initialBalloonMem > 0) (has "initialBalloonMem") "initialBalloonMem"
        "a balloon that is inflated at the start"
      )
      (needs (cfg.hotplugMem > 0) (has "hotplugMem") "hotplugMem" "virtio-mem")
      (needs cfg.hugepageMem (has "hugepageMem") "hugepageMem" "huge pages")
      (needs (cfg.credentialFiles != { }) (has "credentialFiles") "credentialFiles" "credentials")
      (needs (cfg.readiness == "guest") (has "guestReadiness") "readiness" "readiness reports of the guest")
    ]
    ++ map (
      { type, ... }:
      needs true (hasElem "interfaces" type) "interfaces" "interfaces of type \"${type}\""
    ) cfg.interfaces
    ++ map (
      { id, tap, ... }:
      needs tap.vhost (has "tapVhost") "interfaces" "vhost-net, for interface \"${id}\""
    ) cfg.interfaces
    ++ map (
      { proto, ... }: needs true (hasElem "shares" proto) "shares" "${proto} shares"
    ) cfg.shares
    ++ map (
      {
        tag,
        proto,
        readOnly,
        ...
      }:
      needs (proto == "9p" && readOnly) (
        has "readOnly9p"
      ) "shares" "read-only 9p shares, for share \"${tag}\""
    ) cfg.shares
    ++ map ({ bus, ... }: needs true (hasElem "devices" bus) "devices" "${bus} devices") cfg.devices
    ++ map (
      { imageType, ... }: needs true (hasElem "imageTypes" imageType) "volumes" "images of type ${imageType}"
    ) cfg.volumes
    ++ lib.concatMap (
      {
        image,
        serial,
        direct,
        shared,
        ...
      }:
      [
        (needs (serial != null) (has "volumeSerial") "volumes"
          "serial numbers of volumes, for volume \"${image}\""
        )
        (needs direct (has "volumeDirect") "volumes"
          "direct access to volumes, for volume \"${image}\""
        )
        (needs shared (has "volumeShared") "volumes"
          "volumes shared with other VMs, for volume \"${image}\""
        )
      ]
    ) cfg.volumes;

  warnings =
    # A kernel and an initrd alone need about that much.
    lib.optional (cfg.mem < 32)
      "${vm}${toString cfg.mem} MiB of memory is hardly enough to boot Linux\nhint: set microvm.mem to 32 or more"
    ++ mountedOver "volumes" ({ image, ... }: image) cfg.volumes
    ++ mountedOver "shares" ({ tag, ... }: tag) cfg.shares
    ++ lib.concatMap shareElsewhere virtiofs
    ++ elsewhere "microvm.socket" cfg.socket
    ++ lib.optionals cfg.graphics.enable (elsewhere "microvm.graphics.socket" cfg.graphics.socket)
    ++ map (
      name: ''
        ${vm}microvm.binScripts.${name} is for manual use and for hosts of microvm.nix; the units of this project do not run it, as they run nothing of a package as root
        hint: ${
          if name == "tap-up" then
            "set microvm.host.tapScript on the host, or declare the VM on its host with config, which runs it"
          else if name == "virtiofsd-run" then
            "directories of shares are created before virtiofsd starts, and microvm.virtiofsd.extraArgs has further arguments for it; for anything else set systemd.services.\"microvm-virtiofsd@\".preStart on the host"
          else
            "set preStart or postStop of the helper on the host, such as systemd.services.\"microvm-tap-interfaces@\""
        }''
    ) (said (if cfg.hostRunsTapUp && builtins.any ({ type, ... }: type == "tap") cfg.interfaces then lib.remove "tap-up" helperScripts else helperScripts))
    ++ map (
      name: ''
        ${vm}microvm.binScripts.${name} has no effect, as the package has its own program of that name
        hint: remove it; for commands that run before the hypervisor, set microvm.preStart''
    ) (said runnerScripts)
    ++ lib.optional (cfg.registerWithMachined && !(isMachineName config.networking.hostName))
      "${vm}systemd-machined does not accept the VM's name, so machinectl will not show the VM\nhint: use letters, digits and \"-\" in networking.hostName, or set microvm.registerWithMachined = false"
    ++ lib.optional config.nix.optimise.automatic
      "${vm}nix.optimise.automatic costs a guest more than it saves: with a share it keeps files open on the host, and an image is deduplicated already";
}
