package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// page is the transcript: what was typed, what came back, and why.
type page struct {
	out    io.Writer
	colour bool
	part   int
}

func newPage(out *os.File) *page {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	_, refused := os.LookupEnv("NO_COLOR")
	return &page{out: out, colour: err == nil && !refused && os.Getenv("TERM") != "dumb"}
}

const (
	bold  = "1"
	dim   = "2"
	green = "32"
	cyan  = "36"
)

func (p *page) paint(style, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return "\033[" + style + "m" + text + "\033[0m"
}

func (p *page) line(text string) { _, _ = fmt.Fprintln(p.out, text) } // a reader who has gone misses nothing

// title begins a part.
func (p *page) title(text string) {
	p.part++
	rule := strings.Repeat("─", max(3, 84-len([]rune(text))))
	p.line("\n" + p.paint(bold, fmt.Sprintf("── %d. %s ", p.part, text)) + p.paint(dim, rule) + "\n")
}

// why says in plain words what comes next, or what came out.
func (p *page) why(format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), 88) {
		p.line(line)
	}
	p.line("")
}

// typed shows a command as somebody types it on a host.
func (p *page) typed(host, command string) {
	p.line("  " + p.paint(cyan, host+"$") + " " + p.paint(bold, command))
}

// printed shows what a command printed.
func (p *page) printed(text string) {
	if text = strings.TrimRight(text, "\n"); text != "" {
		for line := range strings.SplitSeq(text, "\n") {
			p.line(strings.TrimRight("  "+line, " "))
		}
	}
	p.line("")
}

// good reports a check that held.
func (p *page) good(text string) { p.line("  " + p.paint(green, "✓") + " " + text) }

// end is the last line.
func (p *page) end(text string) { p.line("\n" + p.paint(green, text)) }

// wrap breaks text into lines of at most width characters, at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
