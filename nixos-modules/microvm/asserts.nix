# Settings that cannot work, told while the system evaluates. `microvm build`
# checks all of them again, and more; these are the ones that people meet, with
# the option's name as they wrote it.
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
        "${what} \"${value}\" is used ${toString (builtins.length same)} times; give each its own."
    ) (builtins.groupBy key list);

  # A warning for each mount point that several have: NixOS mounts one of two
  # volumes, or of two shares, and says nothing of the other.
  mountedOver =
    what: name: list:
    lib.concatLists (
      lib.mapAttrsToList (
        mountPoint: same:
        lib.optional (builtins.length same > 1)
          "${vm}${what} ${lib.concatMapStringsSep ", " (one: "\"${name one}\"") same} have the mount point ${mountPoint}, and only the first is mounted; give each its own."
      ) (builtins.groupBy ({ mountPoint, ... }: cleanPath mountPoint) (
        builtins.filter ({ mountPoint, ... }: mountPoint != null) list
      ))
    );

  # Who has what this VM's hypervisor has not.
  others =
    has:
    let
      able = builtins.filter (name: has capabilities.${name}) hypervisors;
    in
    if able == [ ] then "No hypervisor can." else "These can: ${lib.concatStringsSep ", " able}.";

  needs =
    wanted: has: option: what:
    refuse (wanted && !(has capability)) "microvm.${option}: ${cfg.hypervisor} has no ${what}. ${others has}";

  withName = cfg // { inherit (config.networking) hostName; };

  # The wrapper makes, finds and removes sockets beneath the state directory only.
  beneath =
    option: path:
    refuse
      (path != null && builtins.elem (baseNameOf (cleanPath path)) [ "" "." ".." ] || lib.hasSuffix "/" (toString path))
      "${option} is \"${toString path}\", which names no file; give a plain relative path, such as \"vm.sock\".";
  elsewhere =
    option: path:
    lib.optional (path != null && socketElsewhere withName path) ''
      ${vm}${option} is "${path}", which is not in the VM's state directory; sockets are made there only, so it is "${socketPath withName path}" there.
      hint: set it to "${socketPath withName path}", and have what looks for it look in /var/lib/microvms/${config.networking.hostName}.'';
  # There as here, the VM's own virtiofsd serves each share; nobody else's is used.
  shareElsewhere =
    { tag, socket, ... }:
    lib.optional (socket != null && socketElsewhere withName socket) ''
      ${vm}the socket of virtiofs share "${tag}" is "${socket}", which is not in the VM's state directory; the VM's own virtiofsd makes it there only, as "${socketPath withName socket}".
      hint: set it to "${socketPath withName socket}", or leave it out. A share that another program serves is no share of the VM's: give its socket to the hypervisor by extraArgs.'';

  # What is said of a package's script beside its own commands.
  said = lib.filter (name: !(onlyOwn (cfg.binScripts.${name} or ""))) ;

  # What somebody has set, on no condition that is false.
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
        "volume \"${image}\" has no size; set its size in MiB, or autoCreate = false for an image that is there."
    ) cfg.volumes
    ++ map (
      { id, type, bridge, ... }:
      refuse (type == "bridge" && bridge == null)
        "interface \"${id}\" has type \"bridge\" and names no bridge; set its option bridge."
    ) cfg.interfaces
    ++ map (
      { id, type, bridge, ... }:
      refuse (type != "bridge" && bridge != null)
        "interface \"${id}\" names a bridge and has type \"${type}\"; set its type to \"bridge\", or remove the bridge."
    ) cfg.interfaces
    ++ map (
      { id, type, macvtap, ... }:
      refuse (type == "macvtap" && (macvtap.link == null || macvtap.mode == null))
        "interface \"${id}\" has type \"macvtap\", so it needs macvtap.link and macvtap.mode."
    ) cfg.interfaces
    ++ map (
      { id, ... }:
      refuse (builtins.stringLength id > 15)
        "interface id \"${id}\" has ${toString (builtins.stringLength id)} characters; Linux allows 15."
    ) cfg.interfaces
    ++ map (
      { id, type, ... }:
      refuse
        (
          builtins.elem type [ "tap" "macvtap" ]
          && builtins.elem id [ "all" "default" "lo" ]
        )
        "interface id \"${id}\" is a name that Linux has for something else; choose another, such as \"vm-web\"."
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
        "microvm.cpu is \"host\", and the guest is for another architecture than its host; QEMU has to emulate it, so name a model, or set \"max\"."
      )
    ]
    ++ map (
      { tag, socket, ... }:
      refuse (socket == null) "virtiofs share \"${tag}\" has no socket; set one, or leave the option out."
    ) virtiofs
    ++ map (
      { tag, socket, ... }: beneath "the socket of virtiofs share \"${tag}\"" socket
    ) virtiofs
    ++ [ (beneath "microvm.socket" cfg.socket) ]
    ++ lib.optional cfg.graphics.enable (beneath "microvm.graphics.socket" cfg.graphics.socket)
    ++ map (
      { tag, posixAcl, extraArgs, ... }:
      refuse (posixAcl && translates (cfg.virtiofsd.extraArgs ++ extraArgs))
        "virtiofs share \"${tag}\" cannot have posixAcl together with --translate-uid or --translate-gid, which are in its extraArgs or in microvm.virtiofsd.extraArgs; set posixAcl = false."
    ) virtiofs
    ++ [
      (refuse (cfg.forwardPorts != [ ] && !(builtins.any ({ type, ... }: type == "user") cfg.interfaces))
        "microvm.forwardPorts needs an interface of type \"user\"; add one."
      )
      (refuse
        (
          cfg.hypervisor == "cloud-hypervisor"
          && lib.any (lib.hasInfix "oem_strings") cfg.cloud-hypervisor.platformOEMStrings
        )
        "microvm.cloud-hypervisor.platformOEMStrings takes the strings alone; remove \"oem_strings\" from them."
      )
      (refuse
        (
          cfg.writableStoreOverlay != null
          && (config.nix.optimise.automatic || config.nix.settings.auto-optimise-store or false)
        )
        "microvm.writableStoreOverlay does not go with nix.optimise.automatic and nix.settings.auto-optimise-store: hard links cannot cross the overlay's layers. Turn them off."
      )
      (refuse (vfkit != [ ])
        "microvm.vfkit.${lib.concatStringsSep ", microvm.vfkit." vfkit} is set, and vfkit runs on macOS only; these modules run VMs under systemd on Linux. Remove it, or set it where the host is a Mac (lib.mkIf), or keep microvm.nix for that machine."
      )
      (needs (cfg.forwardPorts != [ ]) (has "forwardPorts") "forwardPorts" "forwarded ports")
      (needs (cfg.cpu != null) (has "cpu") "cpu" "emulated CPU")
      (needs cfg.graphics.enable (has "graphics") "graphics.enable" "display")
      (needs cfg.balloon (has "balloon") "balloon" "balloon")
      (needs (cfg.initialBalloonMem > 0) (has "initialBalloonMem") "initialBalloonMem"
        "balloon that is inflated at the start"
      )
      (needs (cfg.hotplugMem > 0) (has "hotplugMem") "hotplugMem" "virtio-mem")
      (needs cfg.hugepageMem (has "hugepageMem") "hugepageMem" "huge pages")
      (needs (cfg.credentialFiles != { }) (has "credentialFiles") "credentialFiles" "credentials")
      (needs (cfg.readiness == "guest") (has "guestReadiness") "readiness" "way for the guest to report")
    ]
    ++ map (
      { type, ... }:
      needs true (hasElem "interfaces" type) "interfaces" "interface of type \"${type}\""
    ) cfg.interfaces
    ++ map (
      { id, tap, ... }:
      needs tap.vhost (has "tapVhost") "interfaces" "vhost-net, which \"${id}\" asks for"
    ) cfg.interfaces
    ++ map (
      { proto, ... }: needs true (hasElem "shares" proto) "shares" "share by ${proto}"
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
      ) "shares" "read-only share by 9p, which \"${tag}\" asks for"
    ) cfg.shares
    ++ map ({ bus, ... }: needs true (hasElem "devices" bus) "devices" "${bus} device") cfg.devices
    ++ map (
      { imageType, ... }: needs true (hasElem "imageTypes" imageType) "volumes" "image of type ${imageType}"
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
          "serial number of a volume, which \"${image}\" asks for"
        )
        (needs direct (has "volumeDirect") "volumes"
          "direct access to a volume, which \"${image}\" asks for"
        )
        (needs shared (has "volumeShared") "volumes"
          "volume that is shared with other VMs, which \"${image}\" asks for"
        )
      ]
    ) cfg.volumes;

  warnings =
    # A kernel and an initrd alone take about that much.
    lib.optional (cfg.mem < 32)
      "${vm}${toString cfg.mem} MiB of memory is very little; a Linux guest hardly boots with less than 32."
    ++ mountedOver "volumes" ({ image, ... }: image) cfg.volumes
    ++ mountedOver "shares" ({ tag, ... }: tag) cfg.shares
    ++ lib.concatMap shareElsewhere virtiofs
    ++ elsewhere "microvm.socket" cfg.socket
    ++ lib.optionals cfg.graphics.enable (elsewhere "microvm.graphics.socket" cfg.graphics.socket)
    ++ map (
      name: ''
        ${vm}microvm.binScripts.${name} adds to what the package has for people and for hosts of microvm.nix; the units here run nothing of a package as root, and not this either.
        hint: ${
          if name == "tap-up" then
            "set the host's microvm.host.tapScript, or declare the VM on its host with config, which runs it"
          else if name == "virtiofsd-run" then
            "directories of shares are made before virtiofsd starts, and more arguments for it are in microvm.virtiofsd.extraArgs; for anything else set systemd.services.\"microvm-virtiofsd@\".preStart on the host"
          else
            "set preStart or postStop of the helper on the host, such as systemd.services.\"microvm-tap-interfaces@\""
        }.''
    ) (said (if cfg.hostRunsTapUp && builtins.any ({ type, ... }: type == "tap") cfg.interfaces then lib.remove "tap-up" helperScripts else helperScripts))
    ++ map (
      name: ''
        ${vm}microvm.binScripts.${name} has no effect: that program is the package's own.
        hint: take it out; commands that run before the hypervisor are in microvm.preStart.''
    ) (said runnerScripts)
    ++ lib.optional (cfg.registerWithMachined && !(isMachineName config.networking.hostName))
      "${vm}systemd-machined does not take its name, so machinectl will not show it; use letters, digits and \"-\" in networking.hostName, or set microvm.registerWithMachined = false."
    ++ lib.optional config.nix.optimise.automatic
      "${vm}nix.optimise.automatic costs a guest more than it saves: with a share it keeps files open on the host, and an image is deduplicated already.";
}
