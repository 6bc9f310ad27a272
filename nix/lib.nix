# The flake's `lib`, and functions that both modules use. All facts about hypervisors
# come from the table that the Go programs embed.
{ lib }:

let
  capabilities = lib.importJSON ../internal/hypervisor/capabilities.json;
in
rec {
  inherit capabilities;

  # In the order of the documentation: the default first.
  hypervisors = [ "qemu" ] ++ lib.remove "qemu" (builtins.attrNames capabilities);

  # Every hypervisor of the table has a network.
  hypervisorsWithNetwork = builtins.filter (
    name: capabilities.${name}.interfaces != [ ]
  ) hypervisors;

  # The file system of a volume without fsType.
  defaultFsType = "ext4";

  # The volumes with the letters that the guest's kernel gives to virtio-blk disks, in
  # the order in which the hypervisor adds them. The store disk is the first. After z
  # comes aa.
  withDriveLetters =
    { volumes, storeOnDisk, ... }:
    let
      letters =
        n:
        lib.optionalString (n >= 26) (letters (n / 26 - 1)) + builtins.elemAt lib.lowerChars (lib.mod n 26);
    in
    lib.imap0 (
      i: volume:
      volume
      // {
        letter = letters (i + (if storeOnDisk then 1 else 0));
      }
    ) volumes;

  # The shortest form of a path, for comparisons. It is the same as filepath.Clean in the
  # Go programs.
  cleanPath =
    path:
    let
      text = toString path;
      absolute = lib.hasPrefix "/" text;
      step =
        done: part:
        if part == "" || part == "." then
          done
        else if part != ".." then
          done ++ [ part ]
        else if done != [ ] && lib.last done != ".." then
          lib.init done
        else if absolute then
          done
        else
          done ++ [ part ];
      parts = builtins.foldl' step [ ] (lib.splitString "/" text);
    in
    if absolute then
      "/" + lib.concatStringsSep "/" parts
    else if parts == [ ] then
      "."
    else
      lib.concatStringsSep "/" parts;

  # Whether two paths are the same, and whether a path is dir or below it.
  samePath = a: b: a != null && b != null && cleanPath a == cleanPath b;
  isBelow = dir: path: samePath dir path || lib.hasPrefix "${cleanPath dir}/" (cleanPath path);

  # The share of the host's store, or null.
  hostStoreShare = shares: lib.findFirst ({ source, ... }: samePath source "/nix/store") null shares;

  # Whether systemd-machined accepts a name: it has to be a valid host name.
  isMachineName =
    name:
    builtins.stringLength name <= 64
    && lib.all (label: builtins.match "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?" label != null) (
      lib.splitString "." name
    );

  # The names of file system labels and of serial numbers in /dev/disk. udev keeps
  # letters, digits, some punctuation and UTF-8. It replaces other characters by \xNN in
  # a label and by _ in a serial number, systemd's encode_devnode_name and
  # udev_replace_chars.
  deviceNames =
    let
      ascii = lib.stringToCharacters " !\"$%&'()*,/;<>?[\\]^`{|}~\t";
      hex = {
        " " = "20"; "!" = "21"; "\"" = "22"; "$" = "24"; "%" = "25"; "&" = "26"; "'" = "27"; "(" = "28";
        ")" = "29"; "*" = "2a"; "," = "2c"; "/" = "2f"; ";" = "3b"; "<" = "3c"; ">" = "3e"; "?" = "3f";
        "[" = "5b"; "\\" = "5c"; "]" = "5d"; "^" = "5e"; "`" = "60"; "{" = "7b"; "|" = "7c"; "}" = "7d";
        "~" = "7e"; "\t" = "09";
      };
    in
    {
      ofLabel = builtins.replaceStrings ascii (map (c: "\\x${hex.${c}}") ascii);
      # A slash is not replaced: it becomes a directory.
      ofSerial =
        let
          replaced = lib.remove "/" ascii;
        in
        builtins.replaceStrings replaced (map (_: "_") replaced);
    };

  # The same UUID as in the Go programs (spec.DefaultMachineID).
  defaultMachineId =
    hostName:
    let
      hash = builtins.hashString "sha256" "microvm.nix:${hostName}";
      part = from: length: builtins.substring from length hash;
    in
    lib.concatStringsSep "-" [
      (part 0 8)
      (part 8 4)
      (part 12 4)
      (part 16 4)
      (part 20 12)
    ];

  # Converts the option values of a guest that was evaluated with microvm.nix's module:
  # adds options that it does not have, and removes unset values without a default and
  # the scripts that it generates from other options.
  adopt =
    cfg:
    if cfg ? hostRunsTapUp then
      cfg
    else
      cfg
      // {
        hostRunsTapUp = false;
        package = null;
        readiness = null;
        firecracker = cfg.firecracker // {
          jailer = false;
        };
        vsock = cfg.vsock // {
          # That guest's sshd does not accept the host's key.
          ssh.shutdown = false;
        };
        interfaces = map (
          interface: if interface.type == "macvtap" then interface else removeAttrs interface [ "macvtap" ]
        ) cfg.interfaces;
        volumes = map (volume: if volume.autoCreate then volume else removeAttrs volume [ "size" ]) cfg.volumes;
        binScripts = removeAttrs cfg.binScripts [
          "tap-up"
          "tap-down"
          "macvtap-up"
          "macvtap-down"
          "pci-setup"
          "virtiofsd-run"
        ];
      };

  # The placeholder for the package's own commands in its scripts for manual use and for
  # hosts of microvm.nix; internal/runner replaces it.
  ownCommands = "# (the package's own commands)";

  # Whether a script consists of that placeholder only.
  onlyOwn =
    text:
    lib.all (line: builtins.match "[ \t]*" line != null || line == ownCommands) (lib.splitString "\n" text);

  # The scripts of a package that set up what a VM needs, and those that run it.
  helperScripts = [
    "tap-up"
    "tap-down"
    "macvtap-up"
    "macvtap-down"
    "pci-setup"
    "virtiofsd-run"
  ];
  runnerScripts = [
    "microvm-run"
    "microvm-shutdown"
    "microvm-balloon"
    "microvm-register"
    "microvm-unregister"
  ];

  # A path in the form of a spec: paths in the VM's own directory are relative to it.
  inStateDir =
    { hostName, ... }@cfg:
    path:
    let
      clean = cleanPath path;
      dir = "${cleanPath (cfg.hostStateDir or "/var/lib/microvms")}/${hostName}";
    in
    if clean != dir && isBelow dir clean then lib.removePrefix "${dir}/" clean else clean;

  # The same for a socket. The programs create, find and remove sockets in the VM's
  # directory only; of a path elsewhere, the last component is used there.
  socketElsewhere =
    cfg: path:
    let
      socket = inStateDir cfg path;
    in
    lib.hasPrefix "/" socket || builtins.head (lib.splitString "/" socket) == "..";
  socketPath =
    cfg: path:
    if path == null then
      null
    else if socketElsewhere cfg path then
      baseNameOf (cleanPath path)
    else
      inStateDir cfg path;

  # The values of an option, which may have several names, in a list of arguments, and
  # the list without them.
  extractOptValues =
    option: arguments:
    let
      names = lib.toList option;
      step =
        state: word:
        if state.wants then
          state // { wants = false; values = state.values ++ [ word ]; }
        else if builtins.elem word names then
          state // { wants = true; last = word; }
        else
          state // { args = state.args ++ [ word ]; };
      end = builtins.foldl' step {
        wants = false;
        values = [ ];
        args = [ ];
      } arguments;
    in
    {
      inherit (end) values;
      # As the last argument it has no value and is kept.
      args = end.args ++ lib.optional end.wants end.last;
    };

  # The value of a key in "key=value,…", or null.
  extractParamValue =
    key: text:
    let
      found = builtins.filter (lib.hasPrefix "${key}=") (lib.splitString "," (toString text));
      value = lib.removePrefix "${key}=" (builtins.head found);
    in
    if found == [ ] || value == "" then null else value;

  # The context ID of a VM's vsock, by the same rule as in the Go programs: with
  # cloud-hypervisor it may be in extraArgs.
  vsockCid =
    cfg:
    let
      inline = map (lib.removePrefix "--vsock=") (
        builtins.filter (lib.hasPrefix "--vsock=") cfg.cloud-hypervisor.extraArgs
      );
      found = builtins.filter (cid: cid != null) (
        map (extractParamValue "cid") (
          inline ++ (extractOptValues "--vsock" cfg.cloud-hypervisor.extraArgs).values
        )
      );
    in
    if cfg.vsock.cid != null || cfg.hypervisor != "cloud-hypervisor" || found == [ ] then
      cfg.vsock.cid
    else
      builtins.head found;

  # For custom runners: shell commands that open the queues of a VM's macvtap interfaces,
  # and the descriptors by interface.
  makeMacvtap =
    { microvmConfig, hypervisorConfig }:
    let
      queues = if hypervisorConfig.tapMultiQueue or false then microvmConfig.vcpu else 1;
      first = 3;
      interfaces = builtins.filter ({ type, ... }: type == "macvtap") microvmConfig.interfaces;
      fds = lib.listToAttrs (
        lib.imap0 (i: { id, ... }: lib.nameValuePair id (builtins.genList (q: first + i * queues + q) queues)) interfaces
      );
    in
    {
      openMacvtapFds = lib.concatMapStrings (
        { id, ... }:
        lib.concatMapStrings (fd: "exec ${toString fd}<>/dev/tap$(cat /sys/class/net/${id}/ifindex)\n") fds.${id}
      ) interfaces;
      macvtapFds = fds // {
        nextFreeFd = first + builtins.length interfaces * queues;
      };
    };

  # The spec of a VM, from which the Go programs build a runner package.
  mkSpec = import ./spec.nix {
    inherit
      lib
      capabilities
      cleanPath
      onlyOwn
      runnerScripts
      socketPath
      ;
  };

  # buildRunner { pkgs, microvmConfig, toplevel } builds a runner package from the values
  # of a guest's microvm.* options and its networking.hostName. The guest may be one of
  # microvm.nix.
  buildRunner = import ./runner.nix;
}
