package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/configs"
)

// Exit codes; `meshd run` has the code of its command instead.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// app is what the commands share.
type app struct {
	in       *os.File
	out, err *os.File
	socket   string // --socket
}

func newApp() *app { return &app{in: os.Stdin, out: os.Stdout, err: os.Stderr} }

// client asks the daemon that --socket, MESHD_SOCKET or the default name, in this order.
func (a *app) client() *api.Client { return api.NewClient(a.socketPath()) }

func (a *app) socketPath() string {
	if a.socket != "" {
		return a.socket
	}
	if socket := os.Getenv("MESHD_SOCKET"); socket != "" {
		return socket
	}
	return configs.DefaultSocket
}

// say writes a line for a person to standard output. If that is closed there is nobody to tell.
func (a *app) say(format string, args ...any) { _, _ = fmt.Fprintf(a.out, format+"\n", args...) }

// usageError is a call that makes no sense; the command's usage is shown with it.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func misused(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// failure is an error of a command that was called rightly.
type failure struct{ error }

func (f *failure) Unwrap() error { return f.error }

// exitCode ends the process silently: `meshd run` hands its command's code on.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, a *app, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	command, err := root.ExecuteContextC(ctx)
	return a.report(command, err)
}

// report says on standard error what went wrong and returns the exit code.
func (a *app) report(command *cobra.Command, err error) int {
	var code exitCode
	var misuse *usageError
	var failed *failure
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &misuse) || !errors.As(err, &failed): // what cobra itself refuses is misuse too
		writeLine(a.err, "meshd: "+oneLine(err.Error()))
		writeLine(a.err, "usage: "+command.UseLine()+" (see "+command.CommandPath()+" --help)")
		return exitUsage
	}
	writeLine(a.err, "meshd: "+oneLine(err.Error()))
	return exitFailed
}

func writeLine(w io.Writer, line string) { _, _ = fmt.Fprintln(w, line) }

// oneLine keeps the promise of one line, whatever a library put into its message.
func oneLine(text string) string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
