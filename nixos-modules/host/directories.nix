# The rules for the directories of the VMs, and a warning about rules of other modules
# that contradict them.
{
  config,
  lib,
  shared,
  ...
}:

let
  hostConfig = config;
  inherit (shared)
    cfg
    stateDir
    user
    group
    names
    guest
    ;
  inherit (import ../../nix/lib.nix { inherit lib; }) cleanPath isBelow;

  # Rules of other modules that would give the VMs' directories to another user than
  # root. systemd-tmpfiles uses the first of two rules for a directory, and those of this
  # module come first.
  foreignRules =
    let
      ofText =
        text:
        let
          words = builtins.filter (word: word != "") (lib.splitString " " text);
          at = n: if builtins.length words > n then builtins.elemAt words n else "-";
        in
        {
          type = at 0;
          path = at 1;
          owner = at 3;
          rule = text;
        };
      ofSettings = lib.concatLists (
        lib.mapAttrsToList (
          file: paths:
          lib.optionals (!(builtins.elem file ourRules)) (
            lib.concatLists (
              lib.mapAttrsToList (
                path: types:
                lib.mapAttrsToList (type: rule: {
                  inherit type path;
                  owner = rule.user or "-";
                  rule = "${type} ${path} ${rule.mode or "-"} ${rule.user or "-"} ${rule.group or "-"}";
                }) types
              ) paths
            )
          )
        ) hostConfig.systemd.tmpfiles.settings
      );
    in
    builtins.filter (
      {
        type,
        path,
        owner,
        ...
      }:
      builtins.match "[dDevqQzZ].*" type != null
      && builtins.elem (cleanPath path) ([ stateDir ] ++ map (name: "${stateDir}/${name}") names)
      && !(builtins.elem owner [ "" "-" "root" "0" ":root" ])
    ) (map ofText hostConfig.systemd.tmpfiles.rules ++ ofSettings);
  ourRules = [
    "00-microvm"
    "10-microvm"
    "zz-microvm"
  ];
in
{
  warnings = map (
    { rule, ... }: ''
      systemd.tmpfiles has the rule "${rule}", which would give a directory owned by root to another user; root could not trust its content, and no VM would start after a boot, so the rule has no effect
      hint: remove it; the module creates ${stateDir}, and install-microvm creates the directories in it''
  ) foreignRules;

  systemd.tmpfiles.settings =
    let
      # virtiofsd's helper creates the sources inside a VM's directory.
      made = builtins.filter (
        { source, ... }:
        lib.hasPrefix "/" source
        && !(isBelow builtins.storeDir source)
        && !(isBelow stateDir source)
      ) (lib.concatMap (name: (guest name).microvm.shares) names);
      ofRoot = {
        mode = "0755";
        user = "root";
        group = "root";
      };
    in
    {
      # systemd-tmpfiles uses the first of two rules for a directory, and those of
      # systemd.tmpfiles.rules are in 00-nixos.conf.
      "00-microvm" = {
        ${stateDir}.d = ofRoot;
        "/run/microvm".d = ofRoot;
      };
      "10-microvm" = {
        # After a power loss the pins are still there; at boot no VM runs.
        "${stateDir}/*/booted"."r!" = { };
      }
      // lib.listToAttrs (
        map (
          { source, ... }:
          # A colon means: only if the directory is created.
          lib.nameValuePair (cleanPath source) {
            d = {
              mode = ":0775";
              user = ":${user}";
              group = ":${group}";
            };
          }
        ) made
      );
      # For an existing directory the last rule is used: the same owner and mode as by
      # install-microvm.
      "zz-microvm" = lib.listToAttrs (
        map (
          name:
          lib.nameValuePair "${stateDir}/${name}" {
            z = {
              mode = "1775";
              user = "root";
              inherit group;
            };
          }
        ) names
      );
    };
}
