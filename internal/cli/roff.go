package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// page is a manual page in the macros of man(7).
type page struct{ strings.Builder }

func newPage(name, version, short string) *page {
	p := &page{}
	p.line(fmt.Sprintf(`.TH %q 1 "" %q "microVMs"`, strings.ToUpper(name), "microvm "+version))
	p.section("NAME")
	p.line(roff(name) + ` \- ` + roff(strings.ToLower(short[:1])+short[1:]))
	return p
}

func (p *page) line(text string) { _, _ = p.WriteString(text + "\n") }

func (p *page) section(title string) { p.line(".SH " + title) }

func (p *page) synopsis(use string) {
	name, rest, _ := strings.Cut(use, " ")
	p.line(`\fB` + roff(name) + `\fR ` + roff(rest))
}

func (p *page) item(term, text string) {
	p.line(".TP")
	p.line(term)
	p.line(roff(text))
}

// text prints paragraphs. Indented lines are printed verbatim.
func (p *page) text(text string) {
	verbatim := false
	for line := range strings.SplitSeq(text, "\n") {
		if indented := strings.HasPrefix(line, "  "); indented != verbatim && line != "" {
			macro := ".fi"
			if indented {
				macro = ".PP\n.nf"
			}
			p.line(macro)
			verbatim = indented
		}
		if line == "" {
			line = ".PP"
		} else {
			line = roff(line)
		}
		p.line(line)
	}
	if verbatim {
		p.line(".fi")
	}
}

func (p *page) flags(flags *pflag.FlagSet) {
	first := true
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if first {
			p.section("OPTIONS")
			first = false
		}
		term := `\fB` + roff("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			term = `\fB` + roff("-"+f.Shorthand) + `\fR, ` + term
		}
		if value, _ := pflag.UnquoteUsage(f); value != "" {
			term += ` \fI` + roff(strings.ToUpper(value)) + `\fR`
		}
		p.item(term, strings.ToUpper(f.Usage[:1])+f.Usage[1:]+".")
	})
}

// roff escapes text for troff, groff_char(7).
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}
