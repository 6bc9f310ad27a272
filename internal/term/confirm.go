package term

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Confirm asks a question on out, and reports whether the answer, read from in, is y or
// yes. A nil in, or a file that is not a terminal, is an error, to which the caller adds
// how to do without the question.
func Confirm(in io.Reader, out io.Writer, question string) (bool, error) {
	if f, ok := in.(*os.File); in == nil || ok && !IsTerminal(f) {
		return false, errors.New("stdin is not a terminal")
	}
	_, _ = fmt.Fprintf(out, "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}
