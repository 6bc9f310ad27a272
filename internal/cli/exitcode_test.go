package cli

import (
	"errors"
	"slices"
	"testing"
)

func TestTheExitCodeSaysHowManyFailed(t *testing.T) {
	missing, broken := errNoVM{"x", "/d"}, errors.New("broken")
	for _, test := range []struct {
		errs []error
		of   int
		want int
	}{
		{[]error{missing}, 2, exitPartly},
		{[]error{broken, nil}, 2, exitPartly},
		{[]error{missing, missing}, 2, exitNoVM},
		{[]error{missing, broken}, 2, 1},
	} {
		err := several(test.errs, test.of)
		var e severalError
		if !errors.As(err, &e) || e.code() != test.want {
			t.Errorf("%v of %d: %v", test.errs, test.of, err)
		}
	}
	if err := several([]error{nil, nil}, 2); err != nil {
		t.Errorf("all went well: %v", err)
	}
	if err := several([]error{missing}, 1); !errors.As(err, new(errNoVM)) {
		t.Errorf("one of one: %v", err)
	}
}

func TestADiffHasWhatIsInOneListOnly(t *testing.T) {
	got := diffLines([]string{"a", "-m 256M", "b", "c"}, []string{"a", "-m 300M", "b", "c", "d"})
	if want := []string{"- -m 256M", "+ -m 300M", "+ d"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
