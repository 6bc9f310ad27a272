# SSH over vsock. systemd's ssh generator creates the socket, on port 22 of every
# guest with a vsock device; only the server has to be enabled.
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

  # Whether the hypervisor itself can ask the guest to shut down.
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
          message = "MicroVM ${config.networking.hostName}: microvm.vsock.ssh.enable requires microvm.vsock.cid";
        }
      ];
      services.openssh.enable = true;
    })
    # The key with which the host logs in to shut the guest down, if the hypervisor
    # cannot ask the guest. systemd's generator uses the credential only if there is no
    # sshd@.service, which services.openssh has with startWhenNeeded. sshd reads the
    # file as the user who logs in, root.
    (lib.mkIf (microvm-lib.vsockCid config.microvm != null && cfg.ssh.shutdown && !asks && capability.vsock != "none") {
      services.openssh.authorizedKeysFiles = [
        "/run/credentials/@system/ssh.ephemeral-authorized_keys-all"
      ];
    })
  ]
)
