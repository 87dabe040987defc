package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var (
	codeSpan   = regexp.MustCompile("`((?:[^`\n]|\n[^`\n])+)`") // it may break at a line's end, not at a paragraph's
	codeLine   = regexp.MustCompile(`(?m)^ {4,}(.*)$`)
	unbuilt    = regexp.MustCompile(`(?m)^\*\*Not yet:\*\*(?:.+\n)+`)
	invocation = regexp.MustCompile(`(?:^|[$;&] |\bsudo |\broot |bin/|[(])meshd( .*)$`)
	argument   = regexp.MustCompile(`^[a-z][a-z-]*$`)
	namedFlag  = regexp.MustCompile(`^\[?(--[a-z-]+)`)
)

// Every command and flag that the documents mention exists. What README lists as not built
// yet is left out.
func TestDocumentedCommands(t *testing.T) {
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, path := range append(paths, "../../README.md", "../../CHANGELOG.md", "../../CONTRIBUTING.md") {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := unbuilt.ReplaceAllString(string(data), "")
		for _, code := range append(codeSpan.FindAllStringSubmatch(text, -1), codeLine.FindAllStringSubmatch(text, -1)...) {
			line, _, _ := strings.Cut(strings.ReplaceAll(code[1], "\n", " "), " -- ") // what follows is another program's
			for found := invocation.FindStringSubmatch(line); found != nil; found = invocation.FindStringSubmatch(line) {
				line = found[1]
				if problem := checkInvocation(strings.Fields(line)); problem != "" {
					t.Errorf("%s: %s: %s", path, code[1], problem)
				}
				count++
			}
		}
	}
	if count < 60 {
		t.Errorf("only %d commands were found in the documents", count)
	}
}

// checkInvocation says what is wrong with the words after meshd, or nothing.
func checkInvocation(words []string) string {
	if len(words) == 0 || !argument.MatchString(words[0]) && !strings.HasPrefix(words[0], "--") {
		return "" // a sentence, or output
	}
	command := newRoot(newApp())
	for len(words) > 0 && command.HasSubCommands() && argument.MatchString(words[0]) {
		next := subcommand(command, words[0])
		if next == nil {
			return "there is no command " + command.CommandPath() + " " + words[0]
		}
		command, words = next, words[1:]
	}
	for _, word := range words {
		if word == "--" || strings.ContainsAny(word, ";|&#") {
			break // the end of this command
		}
		found := namedFlag.FindStringSubmatch(word)
		if found == nil || found[1] == "--help" {
			continue
		}
		if name := strings.TrimPrefix(found[1], "--"); command.Flags().Lookup(name) == nil && command.InheritedFlags().Lookup(name) == nil {
			return command.CommandPath() + " has no flag " + found[1]
		}
	}
	return ""
}

func subcommand(command *cobra.Command, name string) *cobra.Command {
	for _, c := range command.Commands() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}
