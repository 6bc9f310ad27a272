# A host of microVMs. The units are those of every distribution, read from their files
# and defined as services of NixOS, so that other modules can change them as usual.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  shared = import ./shared.nix { inherit config lib; };
  inherit (shared)
    package
    stateDir
    user
    group
    names
    settings
    ;

  # The command with the host's settings, which then also apply under sudo.
  command = pkgs.callPackage ../../pkgs/microvm-command.nix {
    inherit stateDir package;
    extraSettings = removeAttrs settings [ "MICROVM_STATE_DIR" ];
  };

  part =
    file:
    import file {
      inherit
        config
        lib
        options
        pkgs
        shared
        ;
    };
in
{
  imports = [ ./options.nix ];

  # The parts are merged here and not imported as modules: NixOS would then merge their
  # lists and lines with those of other modules in another order, for example the script
  # of install-microvm-NAME.service.
  config = lib.mkIf cfg.host.enable (
    lib.mkMerge [
      (part ./units.nix)
      (part ./install.nix)
      (part ./orphans.nix)
      (part ./failing.nix)
      (part ./directories.nix)
      (part ./asserts.nix)
      {
        microvm.host.orphans = lib.mkIf cfg.host.stopOrphans (lib.mkDefault "stop");
        microvm.autostart = builtins.filter (name: cfg.vms.${name}.autostart) names;

        users.users.${user} = {
          isSystemUser = true;
          inherit group;
        };
        users.groups.${group} = { };
        # For VMs that are run manually as that user; the unit has its own limit.
        security.pam.loginLimits =
          map
            (type: {
              domain = user;
              item = "memlock";
              inherit type;
              value = "infinity";
            })
            [
              "hard"
              "soft"
            ];

        boot.kernelModules = [
          "tun"
          "tap"
          "vhost_net"
          "vhost_vsock"
        ];
        hardware.ksm.enable = lib.mkDefault true;

        # For interfaces of type bridge: QEMU runs the helper, which reads bridge.conf.
        # libvirt has its own wrapper.
        security.wrappers.qemu-bridge-helper = lib.mkIf (!config.virtualisation.libvirtd.enable) {
          source = "${pkgs.qemu-utils}/libexec/qemu-bridge-helper";
          owner = "root";
          group = "root";
          capabilities = "cap_net_admin+ep";
        };
        environment.etc."qemu/bridge.conf".text = lib.mkDefault "allow all\n";

        environment.systemPackages = [ command ];
      }
    ]
  );
}
