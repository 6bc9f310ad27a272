package term

import "os"

// Colours, as SGR parameters of ECMA-48.
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Dim    = "2"
	Bold   = "1"
)

// coloured reports whether output to a stream is coloured: only if it is a terminal, and
// never if NO_COLOR is set, https://no-color.org.
func coloured(stream any) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && IsTerminal(stream)
}

// Palette returns text in a colour, or unchanged.
type Palette func(colour, text string) string

// PaletteOf returns the palette for a stream. It returns text unchanged unless the stream
// is a terminal and NO_COLOR is not set.
func PaletteOf(stream any) Palette {
	if !coloured(stream) {
		return func(_, text string) string { return text }
	}
	return func(colour, text string) string {
		if colour == "" || text == "" {
			return text
		}
		return "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
}
