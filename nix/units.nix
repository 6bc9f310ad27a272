# The service templates of systemd/ as NixOS services. The unit files are read here, so
# that NixOS writes whole units. Drop-ins would not do: NixOS calls all of its own
# overrides.conf, and of several drop-ins with the same name systemd reads only the most
# specific one.
{ lib }:

let
  trim = text: builtins.head (builtins.match "[ \t\r]*(([^ \t\r].*)?[^ \t\r])?[ \t\r]*" text);
  isComment = line: builtins.match "[#;].*" line != null;

  # The assignments of a unit file in their order, as { section, key, value },
  # systemd.syntax(7). A line that ends in a backslash continues in the next line that is
  # not a comment; the backslash becomes a space.
  parse =
    text:
    let
      step =
        state: raw:
        let
          part = trim raw;
          line = if state.open == null then (if part == null then "" else part) else state.open + toString part;
          header = builtins.match "\\[([^]]+)]" line;
          assignment = builtins.match "([^= \t]+)[ \t]*=[ \t]*(.*)" line;
          continues = builtins.match "(.*)\\\\" line;
        in
        if part != null && isComment part || line == "" then
          state
        else if continues != null then
          state // { open = builtins.head continues + " "; }
        else if header != null then
          state // { open = null; section = builtins.head header; }
        else if assignment == null || state.section == null then
          throw "invalid line \"${line}\" in a unit file: must be an assignment in a section"
        else
          state
          // {
            open = null;
            found = state.found ++ [
              {
                inherit (state) section;
                key = builtins.elemAt assignment 0;
                value = builtins.elemAt assignment 1;
              }
            ];
          };
    in
    (builtins.foldl' step {
      open = null;
      section = null;
      found = [ ];
    } (lib.splitString "\n" text)).found;

  # The keys of a section, each with all its values. An empty value, which resets those
  # before it, is included.
  section =
    name: assignments:
    builtins.mapAttrs (_: map (a: a.value)) (
      builtins.groupBy (a: a.key) (builtins.filter (a: a.section == name) assignments)
    );

  # The NixOS options for keys of [Unit].
  lists = {
    After = "after";
    Before = "before";
    BindsTo = "bindsTo";
    Conflicts = "conflicts";
    Documentation = "documentation";
    OnFailure = "onFailure";
    PartOf = "partOf";
    Requires = "requires";
    Requisite = "requisite";
    Wants = "wants";
  };
  words = values: builtins.filter (word: word != "") (lib.concatMap (lib.splitString " ") values);

  # Settings that a unit needs and that other modules extend: NixOS merges all definitions
  # of the same priority into one list.
  added = [
    "ConditionPathExists"
    "ExecStartPost"
    "ExecStartPre"
    "ExecStopPost"
    "RestartPreventExitStatus"
    "SuccessExitStatus"
  ];
  # The same, for settings without which no VM starts: lib.mkForce does not remove them.
  needed = [
    "BindPaths"
    "BindReadOnlyPaths"
    "TemporaryFileSystem"
  ];

  # Settings of microvm.nix's templates. There they are plain definitions, which override
  # another module's mkDefault, and they do so here. A plain definition of another
  # module, which needs mkForce there, overrides ours.
  theirs = {
    "microvm@" = [
      "Group"
      "LimitMEMLOCK"
      "LimitNOFILE"
      "NotifyAccess"
      "Restart"
      "RestartSec"
      "SyslogIdentifier"
      "TimeoutSec"
      "Type"
      "User"
      "WorkingDirectory"
    ];
    "microvm-virtiofsd@" = [
      "KillMode"
      "LimitNOFILE"
      "NotifyAccess"
      "Restart"
      "RestartSec"
      "SyslogIdentifier"
      "Type"
    ];
  };
  oneshot = [
    "RemainAfterExit"
    "SyslogIdentifier"
    "Type"
  ];

  only = values: if builtins.length values == 1 then builtins.head values else values;

  # Settings that are left out if another module sets a key whose meaning they would
  # change: TimeoutSec= sets both timeouts, a custom delay must not grow, and a limit of
  # starts needs its interval.
  standBack = {
    serviceConfig = {
      TimeoutStartSec = [ "TimeoutSec" ];
      TimeoutStopSec = [ "TimeoutSec" ];
      RestartMaxDelaySec = [ "RestartSec" ];
      RestartSteps = [ "RestartSec" ];
    };
    unitConfig.StartLimitIntervalSec = [ "StartLimitBurst" ];
  };
in
rec {
  inherit parse;

  # Weaker than a plain definition, stronger than mkDefault.
  asTheirs = lib.mkOverride 900;
  # The same, but stronger than the unit file.
  asTheirsHere = lib.mkOverride 890;
  # Weaker than any definition of another module.
  weak = lib.mkOverride 1250;
  weakHere = lib.mkOverride 1240;

  # The effective values of a definition, with their priorities: those that are not under
  # a false condition.
  counting =
    value:
    if (value._type or "") == "if" then
      lib.optionals value.condition (counting value.content)
    else if (value._type or "") == "merge" then
      lib.concatMap counting value.contents
    else
      [ value ];

  # Whether another module defines a key of a unit's section with a priority above ours.
  # It reads only the names of keys, so that our definitions may depend on it.
  said =
    option: key:
    lib.any (
      definition:
      definition ? ${key}
      && lib.any (value: (value._type or "") != "override" || value.priority < 900) (
        counting definition.${key}
      )
    ) option.definitions;

  # All values of a key, of whatever priority.
  allSaid =
    option: key:
    lib.concatMap (
      definition:
      lib.optionals (definition ? ${key}) (
        lib.concatMap (
          value: map toString (lib.toList (if (value._type or "") == "override" then value.content else value))
        ) (counting definition.${key})
      )
    ) option.definitions;

  # The service of systemd/NAME.service, as a module for systemd.services.NAME. `replace`
  # is a pair of lists as for builtins.replaceStrings, `without` has the keys that the
  # host sets itself, and `more` has values that it adds to lists.
  template =
    {
      name,
      replace,
      without ? [ ],
      more ? { },
    }:
    { options, ... }:
    let
      file = "the unit file ${name}.service";
      # The priority of the strongest definition of another module.
      strongest =
        option: key:
        builtins.foldl' lib.min 1500 (
          lib.concatMap (
            definition:
            lib.optionals (definition.file != file && definition.value ? ${key}) (
              map (value: if (value._type or "") == "override" then value.priority else 100) (
                counting definition.value.${key}
              )
            )
          ) option.definitionsWithLocations
        );
      assignments = map (a: a // { value = builtins.replaceStrings (builtins.elemAt replace 0) (builtins.elemAt replace 1) a.value; }) (
        parse (builtins.readFile (../systemd + "/${name}.service"))
      );
      unit = section "Unit" assignments;
      # NixOS reads some keys before it merges them, and then removes only one condition or
      # priority.
      setting =
        sectionName: key: values:
        let
          others = standBack.${sectionName}.${key} or [ ];
        in
        if others == [ ] then
          priority sectionName key values
        else
          lib.mkIf (!(lib.any (said options.${sectionName}) others)) (priority sectionName key values);
      priority =
        sectionName: key: values:
        if builtins.elem key needed then
          lib.mkOverride (strongest options.${sectionName} key) values
        else if builtins.elem key added then
          lib.mkOverride (lib.max 100 (strongest options.${sectionName} key)) values
        else if key == "ExecStart" || key == "ExecStop" then
          only values
        else if builtins.elem key (theirs.${name} or oneshot) then
          asTheirs (only values)
        else
          weak (only values);
    in
    {
      _file = file;
      config =
        lib.mapAttrs' (key: values: lib.nameValuePair lists.${key} (words values)) (
          lib.filterAttrs (key: _: lists ? ${key}) unit
        )
        // {
          description = asTheirs (builtins.head unit.Description);
          unitConfig = builtins.mapAttrs (setting "unitConfig") (
            removeAttrs unit (builtins.attrNames lists ++ [ "Description" ])
          );
          serviceConfig = builtins.mapAttrs (setting "serviceConfig") (
            removeAttrs (section "Service" assignments) without
            // builtins.mapAttrs (key: values: (section "Service" assignments).${key} or [ ] ++ values) more
          );
          # Each declared VM has its own rule for restarts.
          restartIfChanged = false;
        };
    };
}
