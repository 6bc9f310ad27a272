# A guest with a desktop, shown on VNC: nix run .#qemu-vnc, then connect a VNC viewer to
# localhost:5900.
{
  self,
  nixpkgs,
  system,
}:

nixpkgs.lib.nixosSystem {
  inherit system;
  modules = [
    self.nixosModules.microvm
    {
      networking.hostName = "qemu-vnc";
      system.stateVersion = nixpkgs.lib.trivial.release;

      microvm = {
        hypervisor = "qemu";
        mem = 1024;
        # The backend shows nothing on the host; the display is shown by the VNC server. It
        # renders with a GPU of the host, /dev/dri/renderD128.
        graphics = {
          enable = true;
          backend = "headless";
        };
        qemu.extraArgs = [
          "-vnc"
          "127.0.0.1:0"
        ];
        interfaces = [
          {
            type = "user";
            id = "n";
            mac = "02:00:00:03:00:01";
          }
        ];
      };

      services.xserver = {
        enable = true;
        desktopManager.xfce.enable = true;
      };
      services.displayManager.autoLogin.user = "user";
      users.users.user = {
        isNormalUser = true;
        password = "";
        extraGroups = [ "wheel" ];
      };
      security.sudo.wheelNeedsPassword = false;
    }
  ];
}
