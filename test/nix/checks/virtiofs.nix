# A share in the VM's own directory that the guest writes, one elsewhere that it
# may only read, and the host's store.
{ self, lib }:

let
  inherit (import ./common.nix { inherit self lib; }) host;
in
{
  name = "virtiofs";
  nodes.machine = host {
    web = {
      microvm.shares = [
        {
          proto = "virtiofs";
          tag = "ro-store";
          source = "/nix/store";
          mountPoint = "/nix/.ro-store";
          readOnly = true;
        }
        {
          proto = "virtiofs";
          tag = "home";
          source = "home";
          mountPoint = "/home";
        }
        {
          proto = "virtiofs";
          tag = "srv";
          source = "/srv/data";
          mountPoint = "/srv";
          readOnly = true;
        }
      ];
      systemd.services.visit = {
        wantedBy = [ "multi-user.target" ];
        unitConfig.RequiresMountsFor = "/home /srv";
        script = ''
          cat /srv/hello > /home/seen
          if echo x > /srv/written; then echo yes; else echo no; fi > /home/could-write
        '';
        serviceConfig.Type = "oneshot";
      };
    };
  };
  testScript = ''
    machine.succeed("mkdir -p /srv/data && echo hello > /srv/data/hello")
    machine.succeed("systemctl restart microvm@web", timeout=900)
    machine.wait_until_succeeds("test -s /var/lib/microvms/web/home/could-write", timeout=900)
    machine.succeed("grep -x hello /var/lib/microvms/web/home/seen")
    machine.succeed("grep -x no /var/lib/microvms/web/home/could-write")
    machine.succeed("systemctl is-active microvm-virtiofsd@web")

    machine.succeed("systemctl stop microvm@web", timeout=300)
    machine.fail("pgrep virtiofsd")
  '';
}
