package account

import (
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestAUserHasItsGroups compares with id(1).
func TestAUserHasItsGroups(t *testing.T) {
	for _, name := range []string{"root", "nobody"} {
		a, err := Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		for flag, got := range map[string][]int{"-u": {a.UID}, "-g": {a.GID}, "-G": a.Groups} {
			out, err := exec.Command("id", flag, name).Output()
			if err != nil {
				t.Fatal(err)
			}
			var want []int
			for _, word := range strings.Fields(string(out)) {
				n, err := strconv.Atoi(word)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, n)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s %s: %v, want %v", name, flag, got, want)
			}
		}
		c := a.Credential()
		if int(c.Uid) != a.UID || int(c.Gid) != a.GID || len(c.Groups) != len(a.Groups) || len(a.Alone().Groups) != 0 {
			t.Errorf("%s: %+v", name, c)
		}
		if !slices.Contains(a.All(), a.GID) {
			t.Errorf("%s: %v is without the first group", name, a.All())
		}
	}
	for _, name := range []string{"", "no-such-user", "a:b"} {
		if _, err := Lookup(name); err == nil {
			t.Errorf("user %q was found", name)
		}
		if _, err := Group(name); err == nil {
			t.Errorf("group %q was found", name)
		}
	}
	if gid, err := Group("root"); err != nil || gid != 0 {
		t.Errorf("%d, %v", gid, err)
	}
}
