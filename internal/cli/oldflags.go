package cli

import (
	"fmt"
	"slices"
	"strings"

	"microvm/internal/exit"
)

// fromFlags turns a command line of microvm.nix's command, whose actions are
// flags that can be combined (-Ru web db, -c web -f REF), into one of words.
// Other command lines are returned as they are.
func fromFlags(args []string) ([]string, error) {
	if len(args) == 0 || !oldFlags(args[0]) {
		return args, nil
	}
	o := &old{}
	if err := o.parse(args); err != nil {
		return nil, exit.Usagef("%w; see: microvm --help", err)
	}
	words, err := o.words()
	if err != nil {
		return nil, exit.Usagef("%w; see: microvm --help", err)
	}
	return words, nil
}

// oldFlags says whether a first word begins a command line of flags. -h and -v
// are not microvm.nix's.
func oldFlags(word string) bool {
	return len(word) > 1 && word[0] == '-' && strings.IndexByte("cCfuRrsl", word[1]) >= 0
}

// completed turns a command line of flags that a shell asks to complete into one
// of words; its last word is the one that is being written. Others, and those of
// which too little is written, are returned as they are.
func completed(args []string) []string {
	const most = 3 // cobra's own word, a flag, and a word
	if len(args) < most || !strings.HasPrefix(args[0], "__complete") || !oldFlags(args[1]) {
		return args
	}
	o := &old{}
	if err := o.parse(args[1:]); err != nil || strings.HasPrefix(args[len(args)-1], "-") {
		return args
	}
	o.restart, o.flake = false, ""
	words, err := o.words()
	if err != nil {
		return args
	}
	return slices.Concat(args[:1], words)
}

// old is a command line of flags.
type old struct {
	action         byte
	flake          string
	restart        bool
	names, further []string
}

func (o *old) parse(args []string) error {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		var err error
		switch {
		case o.action == 's':
			// What follows is for ssh, its flags among it.
			o.further = append([]string{word}, args...)
			return nil
		case word == "--":
			o.names = append(o.names, args...)
			return nil
		case strings.HasPrefix(word, "--"):
			o.further = append(o.further, word)
		case len(word) > 1 && word[0] == '-':
			args, err = o.letters(word[1:], args)
		default:
			o.names = append(o.names, word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// letters reads one word of letters as getopt(3) does: -c, -f, -r and -s take
// the rest of the word, or the next one. After -c, -s and -p are create's own:
// where the VM comes from.
func (o *old) letters(letters string, rest []string) ([]string, error) {
	for i := range len(letters) {
		switch l := letters[i]; l {
		case 'u', 'l':
			if err := o.act(l); err != nil {
				return nil, err
			}
		case 'R':
			o.restart = true
		case 'c', 'r', 's', 'f', 'p':
			value := letters[i+1:]
			if value == "" {
				if len(rest) == 0 {
					return nil, fmt.Errorf("-%c needs a word after it; give the name, or where the VM comes from", l)
				}
				value, rest = rest[0], rest[1:]
			}
			switch {
			case l == 'f':
				o.flake = value
			case l == 's' && o.action == 'c':
				o.further = append(o.further, "--spec", value)
			case l == 'p' && o.action == 'c':
				o.further = append(o.further, "--package", value)
			case l == 'p':
				return nil, fmt.Errorf("-p goes with -c, as in: microvm -c web -p PACKAGE")
			default:
				o.names = append(o.names, value)
				return rest, o.act(l)
			}
			return rest, nil
		default:
			return nil, fmt.Errorf("there is no flag -%c; there are -c, -u, -R, -r, -s, -l, -f and -p", l)
		}
	}
	return rest, nil
}

func (o *old) act(l byte) error {
	if o.action != 0 && o.action != l {
		return fmt.Errorf("-%c and -%c exclude each other; say one at a time", o.action, l)
	}
	o.action = l
	return nil
}

// words is the command line in words.
func (o *old) words() ([]string, error) {
	if o.restart && o.action != 'u' {
		return nil, fmt.Errorf("-R goes with -u, as in: microvm -Ru web")
	}
	if o.flake != "" && o.action != 'c' {
		return nil, fmt.Errorf("-f goes with -c, as in: microvm -c web -f REF")
	}
	words := map[byte]string{'c': "create", 'u': "update", 'r': "run", 's': "ssh", 'l': "list"}
	if words[o.action] == "" {
		return nil, fmt.Errorf("the command line says nothing to do; name one of -c, -u, -r, -s and -l")
	}
	out := slices.Concat([]string{words[o.action]}, o.names)
	if o.flake != "" {
		out = append(out, "--flake", o.flake)
	}
	if o.restart {
		out = append(out, "--restart")
	}
	return append(out, o.further...), nil
}
