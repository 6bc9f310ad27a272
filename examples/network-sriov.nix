# A VM with a virtual function of an SR-IOV network card, which is passed through, so
# that packets bypass the host's kernel.
{ pkgs, ... }:

{
  boot.kernelParams = [
    # On AMD the IOMMU is enabled by default.
    "intel_iommu=on"
    "iommu=pt"
  ];

  # Creates four virtual functions of the card's port, and sets a fixed address.
  systemd.services.sriov = {
    description = "Virtual functions of enp1s0f0";
    wantedBy = [ "multi-user.target" ];
    before = [
      "network-pre.target"
      "microvm-pci-devices@web.service"
    ];
    requiredBy = [ "microvm-pci-devices@web.service" ];
    wants = [ "network-pre.target" ];
    bindsTo = [ "sys-subsystem-net-devices-enp1s0f0.device" ];
    after = [ "sys-subsystem-net-devices-enp1s0f0.device" ];
    path = [ pkgs.iproute2 ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
    };
    script = ''
      echo 4 > /sys/class/net/enp1s0f0/device/sriov_numvfs
      ip link set enp1s0f0 vf 0 mac 02:00:00:09:00:01 spoofchk on
    '';
  };

  microvm.vms.web.config = {
    system.stateVersion = "25.05";
    # The function's address as printed by lspci -D.
    microvm.devices = [
      {
        bus = "pci";
        path = "0000:01:10.0";
      }
    ];
    # The guest drives the function itself.
    boot.initrd.availableKernelModules = [
      "ixgbevf"
      "iavf"
      "mlx5_core"
    ];
    systemd.network = {
      enable = true;
      networks."20-lan" = {
        matchConfig.MACAddress = "02:00:00:09:00:01";
        networkConfig.DHCP = "yes";
      };
    };
  };
}
