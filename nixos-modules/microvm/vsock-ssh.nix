# SSH over vsock. systemd's ssh generator makes the socket by itself, on port 22
# of every guest that has a vsock device; all it needs is the server.
{ config, lib, ... }:

let
  cfg = config.microvm.vsock;
in
lib.mkIf (config.microvm.guest.enable && cfg.ssh.enable) {
  assertions = [
    {
      assertion = cfg.cid != null;
      message = "MicroVM ${config.networking.hostName}: microvm.vsock.ssh.enable needs an address: set microvm.vsock.cid.";
    }
  ];
  services.openssh.enable = true;
}
