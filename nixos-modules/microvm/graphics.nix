# Modules and programs for a guest with a display.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  # Runs a Wayland program on the host's display, through the virtual GPU.
  wayland-proxy = pkgs.writeShellScriptBin "run-wayland-proxy" ''
    exec ${lib.getExe pkgs.wayland-proxy-virtwl} --virtio-gpu -- "$@"
  '';
  # The same over vsock, to a `waypipe --vsock -s 6000 client` on the host (CID 2).
  waypipe = pkgs.writeShellScriptBin "run-waypipe" ''
    exec ${lib.getExe pkgs.waypipe} --vsock -s 2:6000 server "$@"
  '';
in
lib.mkIf (config.microvm.guest.enable && config.microvm.graphics.enable) {
  boot.kernelModules = [
    "drm"
    "virtio_gpu"
  ];
  environment.systemPackages = [
    wayland-proxy
    waypipe
  ];
}
