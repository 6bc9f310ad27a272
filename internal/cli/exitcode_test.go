package cli

import (
	"errors"
	"testing"

	"microvm/internal/exit"
)

func TestTheExitCodeSaysHowManyFailed(t *testing.T) {
	missing, broken := errNoVM{"x"}, errors.New("broken")
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

func TestTheExitCodeOfSeveralIsThatOfEachOrTellsThatTheyDiffer(t *testing.T) {
	canceled, skipped := jobFailure{strErr("canceled"), exitCanceled}, jobFailure{strErr("skipped"), exitSkipped}
	for _, test := range []struct {
		errs []error
		of   int
		want int
	}{
		{[]error{canceled, canceled}, 2, exitCanceled},
		{[]error{canceled, skipped}, 2, exit.CodeFailed},
		{[]error{canceled}, 2, exitPartly},
		{[]error{errNoVM{}, errNoVM{}}, 2, exitNoVM},
		{[]error{errNoVM{}, canceled}, 2, exit.CodeFailed},
	} {
		if got := (severalError{test.errs, test.of}).code(); got != test.want {
			t.Errorf("%v of %d: code %d, want %d", test.errs, test.of, got, test.want)
		}
	}
}

type strErr string

func (e strErr) Error() string { return string(e) }
