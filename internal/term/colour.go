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

// coloured reports whether colour is wanted on a stream: on a terminal, and never
// with NO_COLOR, https://no-color.org.
func coloured(stream any) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && IsTerminal(stream)
}

// Palette colours text, or leaves it as it is.
type Palette func(colour, text string) string

// PaletteOf returns the palette for a stream: one that colours nothing where colour
// is not wanted.
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
