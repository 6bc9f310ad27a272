# A bootable disk, for a hypervisor that cannot load a kernel. It is built only on
# request.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  build = pkgs.buildPackages;
  kernelFile = config.system.boot.loader.kernelFile;
  kernel = "${cfg.kernel}/${kernelFile}";
  initrd = "${cfg.initrdPath}";
in
{
  config = lib.mkIf cfg.guest.enable {
    microvm.bootDisk =
      build.runCommandLocal "microvm-boot-disk.img"
        {
          nativeBuildInputs = [
            build.dosfstools
            build.mtools
            build.gptfdisk
          ];
        }
        ''
          cat > loader.conf <<'EOF'
          default microvm.conf
          timeout 0
          EOF
          cat > microvm.conf <<'EOF'
          title ${config.networking.hostName}
          linux /${kernelFile}
          initrd /${baseNameOf initrd}
          options ${toString cfg.kernelParams}
          EOF

          # In KiB: both files, a tenth for FAT's tables, and a MiB to spare.
          need=$(( ($(stat -Lc %s ${kernel}) + $(stat -Lc %s ${initrd})) * 11 / 10 / 1024 + 1024 ))
          size=$(( need < 34 * 1024 ? 34 * 1024 : need ))
          truncate -s "''${size}K" esp.img
          mkfs.vfat -F 32 -n ESP esp.img
          mmd -i esp.img ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
          mcopy -i esp.img ${config.systemd.package}/lib/systemd/boot/efi/systemd-boot${
            if pkgs.stdenv.hostPlatform.isAarch64 then "aa64" else "x64"
          }.efi ::/EFI/BOOT/${if pkgs.stdenv.hostPlatform.isAarch64 then "BOOTAA64.EFI" else "BOOTX64.EFI"}
          mcopy -i esp.img loader.conf ::/loader/loader.conf
          mcopy -i esp.img microvm.conf ::/loader/entries/microvm.conf
          mcopy -i esp.img ${kernel} ::/${kernelFile}
          mcopy -i esp.img ${initrd} ::/${baseNameOf initrd}

          # A MiB before the partition and one after it, for the two tables.
          truncate -s "$(( size + 2048 ))K" $out
          sgdisk --new=1:2048:+"''${size}"K --typecode=1:ef00 $out
          dd if=esp.img of=$out bs=1M seek=1 conv=notrunc,sparse
        '';
  };
}
