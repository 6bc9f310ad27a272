# SSH over vsock. systemd's ssh generator makes the socket by itself, on port 22
# of every guest that has a vsock device; all it needs is the server.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm.vsock;
  microvm-lib = import ../../nix/lib.nix { inherit lib; };
  capability = microvm-lib.capabilities.${config.microvm.hypervisor};

  # The hypervisor can ask the guest itself.
  asks =
    config.microvm.socket != null
    && builtins.elem pkgs.stdenv.hostPlatform.parsed.cpu.name capability.shutdown;
in
lib.mkIf config.microvm.guest.enable (
  lib.mkMerge [
    (lib.mkIf cfg.ssh.enable {
      assertions = [
        {
          assertion = cfg.cid != null;
          message = "MicroVM ${config.networking.hostName}: microvm.vsock.ssh.enable needs an address: set microvm.vsock.cid.";
        }
      ];
      services.openssh.enable = true;
    })
    # The key by which the host asks the guest to go down. The generator passes the
    # credential on only where no sshd@.service is there, as services.openssh has
    # it with startWhenNeeded. sshd reads the file as the user who logs in: root. Only
    # a guest that cannot be asked otherwise is asked so.
    (lib.mkIf (microvm-lib.vsockCid config.microvm != null && cfg.ssh.shutdown && !asks && capability.vsock != "none") {
      services.openssh.authorizedKeysFiles = [
        "/run/credentials/@system/ssh.ephemeral-authorized_keys-all"
      ];
    })
  ]
)
