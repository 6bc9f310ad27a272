package cli

import (
	"slices"
	"testing"
)

func TestADiffHasWhatIsInOneListOnly(t *testing.T) {
	got := diffLines([]string{"a", "-m 256M", "b", "c"}, []string{"a", "-m 300M", "b", "c", "d"})
	if want := []string{"- -m 256M", "+ -m 300M", "+ d"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
