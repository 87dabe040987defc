package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// format is a command's -o flag.
type format struct{ name string }

// addFormat gives a command -o json.
func addFormat(c *cobra.Command) *format {
	f := new(format)
	c.Flags().VarP(f, "output", "o", "`FORMAT` of the output: table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)) // fails only if the flag is not there
	return f
}

func (f *format) json() bool { return f.name == "json" }

// Set implements pflag.Value.
func (f *format) Set(value string) error {
	if value != "json" && value != "table" {
		return fmt.Errorf("use table or json")
	}
	f.name = value
	return nil
}

// String implements pflag.Value.
func (f *format) String() string { return f.name }

// Type implements pflag.Value.
func (f *format) Type() string { return "FORMAT" }

// printJSON writes one value, indented.
func (a *app) printJSON(value any) error {
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// table is aligned columns. Cells may be coloured: only what shows counts.
type table struct{ rows [][]string }

func newTable(header ...string) *table { return &table{rows: [][]string{header}} }

// add appends a row; empty cells show as a dash.
func (t *table) add(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// print writes the table, or a sentence instead if it has no rows.
func (a *app) print(t *table, indent, none string) {
	if len(t.rows) == 1 {
		a.say("%s%s", indent, none)
		return
	}
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], shown(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-shown(cell)+3))
		}
		a.say("%s%s", indent, strings.TrimRight(line.String(), " "))
	}
}

// shown is the number of characters of a cell without its colours.
func shown(cell string) int {
	n := utf8.RuneCountInString(cell)
	if strings.HasPrefix(cell, "\x1b[") {
		n -= len(string(red)) + len(plain)
	}
	return n
}

// colour is an ANSI sequence. All have the same length.
type colour string

const (
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	plain         = "\x1b[0m"
)

// paint colours text for a terminal, unless NO_COLOR is set (no-color.org).
func (a *app) paint(c colour, text string) string {
	if text == "" || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(a.out) {
		return text
	}
	return string(c) + text + plain
}

// paintState colours a status word by what it means.
func (a *app) paintState(state string) string {
	switch state {
	case "alive", "healthy", "direct", "valid":
		return a.paint(green, state)
	case "suspect", "starting", "draining":
		return a.paint(yellow, state)
	case "failed", "unhealthy", "unreachable", "none":
		return a.paint(red, state)
	}
	return state
}

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// progress shows on a terminal what is being waited for; the returned function takes it away.
func (a *app) progress(text string) (done func()) {
	if !isTerminal(a.err) {
		return func() {}
	}
	_, _ = fmt.Fprint(a.err, text)
	return func() { _, _ = fmt.Fprint(a.err, "\r\x1b[K") }
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
