package term

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Confirm asks a question on out, whose answer, read from in, is no unless it is
// yes. A nil in, or a file that is no terminal, is an error.
func Confirm(in io.Reader, out io.Writer, question string) (bool, error) {
	if f, ok := in.(*os.File); in == nil || ok && !IsTerminal(f) {
		return false, errors.New("nobody is there to be asked, as standard input is no terminal; say --yes if you are sure")
	}
	_, _ = fmt.Fprintf(out, "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w; say --yes to be asked nothing", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}
