# The Go programs, with the units, manual pages and completions.
{ lib, buildGoModule }:

let
  root = ../.;
  # Only the sources of the programs: a change of the handbook must not rebuild VMs.
  wanted = [
    "cmd"
    "internal"
    "systemd"
    "go.mod"
    "go.sum"
    "LICENSE"
  ];
  commands = builtins.attrNames (builtins.readDir (root + "/cmd"));
  people = [
    "microvm"
    "install-microvm"
  ];
in
buildGoModule {
  pname = "microvm";
  version = lib.fileContents ./version;

  src = builtins.path {
    name = "microvm-source";
    path = root;
    filter =
      path: type:
      let
        relative = lib.removePrefix (toString root + "/") (toString path);
      in
      builtins.elem (builtins.head (lib.splitString "/" relative)) wanted
      && !(lib.hasSuffix "_test.go" path)
      && !(type == "directory" && baseNameOf path == "testdata");
  };

  # The hash of the result of `go mod vendor`; test/nix recomputes it.
  vendorHash = lib.fileContents ./vendor-hash;

  subPackages = map (name: "cmd/${name}") commands;
  env.CGO_ENABLED = "0";
  ldflags = [
    "-s"
    "-w"
    "-X main.version=${lib.fileContents ./version}"
    "-X main.libexecDir=${placeholder "out"}/lib/microvm"
    "-X main.binDir=${placeholder "out"}/bin"
  ];
  # The tests need a kernel and root.
  doCheck = false;

  # The same layout as `make install`.
  postInstall = ''
    mkdir -p $out/lib/microvm $out/lib/systemd/system
    for program in ${toString (lib.subtractLists people commands)}; do
      mv $out/bin/$program $out/lib/microvm/
    done
    for unit in systemd/*.service systemd/*.target; do
      sed "s|@LIBEXECDIR@|$out/lib/microvm|g" $unit > $out/lib/systemd/system/''${unit##*/}
    done
    $out/bin/microvm man $out/share/man/man1
    for shell in bash zsh fish; do
      $out/bin/microvm completion $shell > microvm.$shell
    done
    install -D -m 644 microvm.bash $out/share/bash-completion/completions/microvm
    install -D -m 644 microvm.zsh $out/share/zsh/site-functions/_microvm
    install -D -m 644 microvm.fish $out/share/fish/vendor_completions.d/microvm.fish
    install -D -m 644 systemd/microvm.sysusers.conf $out/lib/sysusers.d/microvm.conf
    install -D -m 644 systemd/microvm.tmpfiles.conf $out/lib/tmpfiles.d/microvm.conf
    install -D -m 644 systemd/microvm.modules-load.conf $out/lib/modules-load.d/microvm.conf
    install -D -m 644 systemd/60-microvm.rules $out/lib/udev/rules.d/60-microvm.rules
  '';

  meta = {
    description = "microVMs under systemd, from one file";
    license = lib.licenses.mit;
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
    mainProgram = "microvm";
  };
}
