# The service templates of systemd/ as NixOS services. The files are the one place
# that says what the units are; here they are read, so that NixOS writes whole
# units of them: of several drop-ins with one name, and NixOS calls each of its own
# overrides.conf, systemd reads only the most specific.
{ lib }:

let
  trim = text: builtins.head (builtins.match "[ \t\r]*(([^ \t\r].*)?[^ \t\r])?[ \t\r]*" text);
  isComment = line: builtins.match "[#;].*" line != null;

  # The assignments of a unit file in its order, as { section, key, value },
  # systemd.syntax(7): a line that ends in a backslash goes on in the next one that
  # is no comment, and the backslash is a space.
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
          throw "a unit file has the line \"${line}\", which is no assignment in a section"
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

  # Each key of a section with all its values: an empty one, which takes back those
  # before it, is a value too.
  section =
    name: assignments:
    builtins.mapAttrs (_: map (a: a.value)) (
      builtins.groupBy (a: a.key) (builtins.filter (a: a.section == name) assignments)
    );

  # Options of NixOS' own for what [Unit] has.
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

  # What a unit cannot do without, and what others add to: NixOS makes one list of
  # all of it, of one priority.
  added = [
    "ConditionPathExists"
    "ExecStartPost"
    "ExecStartPre"
    "ExecStopPost"
    "RestartPreventExitStatus"
    "SuccessExitStatus"
  ];
  # The same, and no VM starts without: not even lib.mkForce takes it out.
  needed = [
    "BindPaths"
    "BindReadOnlyPaths"
    "TemporaryFileSystem"
  ];

  # What microvm.nix's templates set, at the priority of a plain definition: there a
  # default (mkDefault) of somebody else's has no effect, and here it has none
  # either. A plain definition, which there needs mkForce, goes before ours.
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

  # Settings that stand back where somebody else says something that they would take
  # away: TimeoutSec= is both timeouts, a delay of one's own is no growing one, and
  # a limit of starts needs its interval.
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

  # Behind every plain definition, before every default.
  asTheirs = lib.mkOverride 900;
  # The same, before what the unit's file says.
  asTheirsHere = lib.mkOverride 890;
  # Behind whatever somebody else says.
  weak = lib.mkOverride 1250;
  weakHere = lib.mkOverride 1240;

  # The values of a definition that count: those on no condition that is false, as
  # they are with their priorities.
  counting =
    value:
    if (value._type or "") == "if" then
      lib.optionals value.condition (counting value.content)
    else if (value._type or "") == "merge" then
      lib.concatMap counting value.contents
    else
      [ value ];

  # Whether an option of a unit's section has a definition of a key that goes before
  # ours. Only the names are looked at, so that ours may depend on it.
  said =
    option: key:
    lib.any (
      definition:
      definition ? ${key}
      && lib.any (value: (value._type or "") != "override" || value.priority < 900) (
        counting definition.${key}
      )
    ) option.definitions;

  # All that others say of a key, without asking which of it counts.
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

  # The service of systemd/NAME.service, as a module for systemd.services.NAME.
  # `replace` is a pair of lists, as for builtins.replaceStrings, for what is
  # another one on this host, `without` the keys that the host says itself, and
  # `more` what it adds to lists.
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
      # The priority of the strongest definition of others.
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
      # NixOS looks at some keys before it merges them, and takes one condition or
      # priority off and not two.
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
          # What restarts a VM is with the VM that is declared.
          restartIfChanged = false;
        };
    };
}
