package hypervisor

import (
	"slices"
	"strings"
	"testing"
)

func TestAJailHasTheFilesThatAVMNames(t *testing.T) {
	plan, err := compileFor(t, "firecracker", `"storeDisk":"/nix/store/x/disk","volumes":[{"image":"own.img","size":1},{"image":"/srv/rw","autoCreate":false},{"image":"/srv/ro","autoCreate":false,"readOnly":true}],
		"firecracker":{"jailer":true,"package":"/opt/fc","extraConfig":{"pmem":[{"path_on_host":"/srv/pmem"}],"cpu-config":"/srv/cpu.json","logger":{"log_path":"log"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Jail == nil {
		t.Fatal("the plan has no jail")
	}
	if want := []string{"/i", "/k", "/opt/fc/bin/firecracker", "/srv/cpu.json", "/srv/ro"}; !slices.Equal(plan.Jail.ReadOnly, want) {
		t.Errorf("readable are %q, want %q", plan.Jail.ReadOnly, want)
	}
	if want := []string{"/srv/pmem", "/srv/rw"}; !slices.Equal(plan.Jail.Writable, want) {
		t.Errorf("writable are %q, want %q", plan.Jail.Writable, want)
	}
	if !slices.ContainsFunc(plan.Notes, func(n string) bool { return strings.Contains(n, "firecracker.jailer") }) {
		t.Errorf("no note about firecracker.jailer in %q", plan.Notes)
	}
}

func TestWhatAJailCannotHaveIsRefused(t *testing.T) {
	tests := map[string]struct{ members, section, path, want string }{
		"an image to be made elsewhere": {`"volumes":[{"image":"/srv/x","size":1}],`, "", "volumes[0].autoCreate", "set image to a relative path"},
		"a directive in a path":         {`"volumes":[{"image":"/srv/x y","autoCreate":false}],`, "", "volumes[0].image", "for a jailed VM"},
		"a specifier in a path":         {`"volumes":[{"image":"/srv/%h","autoCreate":false}],`, "", "volumes[0].image", "for a jailed VM"},
		"another target in a path":      {`"volumes":[{"image":"/srv/a:/etc","autoCreate":false}],`, "", "volumes[0].image", "for a jailed VM"},
		"a way out of a directory":      {`"volumes":[{"image":"/srv/../etc/x","autoCreate":false}],`, "", "volumes[0].image", `must be written as "/etc/x"`},
		"a file of the kernel's":        {`"initrdPath":"/proc/1/mem",`, "", "initrdPath", "has no files of /proc and /sys"},
		"a log elsewhere":               {"", `,"extraArgs":["--log-path","/var/log/x"]`, "firecracker.extraArgs[1]", "relative to the state directory"},
		"a log elsewhere, in one word":  {"", `,"extraArgs":["--log-path=/var/log/x"]`, "firecracker.extraArgs[0]", "relative to the state directory"},
		"metrics elsewhere":             {"", `,"extraConfig":{"metrics":{"metrics_path":"/var/log/x"}}`, "firecracker.extraConfig.metrics.metrics_path", "relative to the state directory"},
		"a socket elsewhere":            {"", `,"extraConfig":{"drives":[{"socket":"/run/x"}]}`, "firecracker.extraConfig.drives[0].socket", "relative to the state directory"},
		"a drive with a line break":     {"", `,"extraConfig":{"drives":[{"path_on_host":"/x\nUser=root"}]}`, "firecracker.extraConfig.drives[0].path_on_host", "for a jailed VM"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := compileFor(t, "firecracker", test.members+`"firecracker":{"jailer":true`+test.section+`}`)
			wantFault(t, err, test.path, test.want)
			if _, err := compileFor(t, "firecracker", test.members+`"firecracker":{"jailer":false`+test.section+`}`); err != nil {
				t.Errorf("without a jail: %v", err)
			}
		})
	}
}
