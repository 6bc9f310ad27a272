# SSH over vsock. systemd's ssh generator makes the socket by itself, on port 22
# of every guest that has a vsock device; all it needs is the server.
{ config, lib, ... }:

let
  cfg = config.microvm.vsock;
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
    # it with startWhenNeeded. sshd reads the file as the user who logs in: root.
    (lib.mkIf (cfg.cid != null && cfg.ssh.shutdown) {
      services.openssh.authorizedKeysFiles = [
        "/run/credentials/@system/ssh.ephemeral-authorized_keys-all"
      ];
    })
  ]
)
