package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"microvm/internal/exit"
)

// fromFlags converts a command line of microvm.nix's command, whose actions are flags
// that can be combined (-Ru web db, -c web -f REF), into one of ours. Other command
// lines are returned unchanged.
func fromFlags(args []string) ([]string, error) {
	if len(args) == 0 || !oldFlags(args[0]) {
		return args, nil
	}
	o := &old{}
	err := o.parse(args)
	if err == nil {
		args, err = o.command()
	}
	if err != nil {
		return nil, exit.WithHint(exit.Usage(err), "see: microvm --help")
	}
	return args, nil
}

// oldFlags reports whether a first argument begins a command line of microvm.nix's. -h
// and -v do not.
func oldFlags(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && strings.IndexByte("cCfuRrsl", arg[1]) >= 0
}

// completed converts a command line of microvm.nix's that a shell wants completed into
// one of ours; its last argument is the one being typed. Other command lines, and those
// that are too short to tell, are returned unchanged.
func completed(args []string) []string {
	const least = 3 // cobra's __complete, a flag, and an argument
	if len(args) < least || !strings.HasPrefix(args[0], "__complete") || !oldFlags(args[1]) {
		return args
	}
	o := &old{}
	if err := o.parse(args[1:]); err != nil || strings.HasPrefix(args[len(args)-1], "-") {
		return args
	}
	o.restart, o.flake = false, ""
	command, err := o.command()
	if err != nil {
		return args
	}
	return slices.Concat(args[:1], command)
}

// old is a command line of microvm.nix's.
type old struct {
	action         byte
	flake          string
	restart        bool
	names, further []string
}

func (o *old) parse(args []string) error {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case o.action == 's':
			// All that follows is for ssh, including flags.
			o.further = append([]string{arg}, args...)
			return nil
		case arg == "--":
			o.names = append(o.names, args...)
			return nil
		case strings.HasPrefix(arg, "--"):
			o.further = append(o.further, arg)
		case len(arg) > 1 && arg[0] == '-':
			args, err = o.letters(arg[1:], args)
		default:
			o.names = append(o.names, arg)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// letters parses the letters of one argument as getopt(3) does: the value of -c, -f, -r
// and -s is the rest of the letters, or the next argument. After -c, -s and -p are the
// flags of create, for the source of the VM. It returns the arguments that are left of
// rest.
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
					return nil, fmt.Errorf("-%c requires an argument", l)
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
				return nil, errors.New("-p requires -c")
			default:
				o.names = append(o.names, value)
				return rest, o.act(l)
			}
			return rest, nil
		default:
			return nil, fmt.Errorf("unknown flag -%c", l)
		}
	}
	return rest, nil
}

func (o *old) act(l byte) error {
	if o.action != 0 && o.action != l {
		return fmt.Errorf("-%c and -%c are mutually exclusive", o.action, l)
	}
	o.action = l
	return nil
}

// command returns the command line in our form.
func (o *old) command() ([]string, error) {
	if o.restart && o.action != 'u' {
		return nil, errors.New("-R requires -u")
	}
	if o.flake != "" && o.action != 'c' {
		return nil, errors.New("-f requires -c")
	}
	commands := map[byte]string{'c': "create", 'u': "update", 'r': "run", 's': "ssh", 'l': "list"}
	if commands[o.action] == "" {
		return nil, errors.New("one of -c, -u, -r, -s and -l is required")
	}
	out := slices.Concat([]string{commands[o.action]}, o.names)
	if o.flake != "" {
		out = append(out, "--flake", o.flake)
	}
	if o.restart {
		out = append(out, "--restart")
	}
	return append(out, o.further...), nil
}
