package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot builds the command line. Building has no effect besides a.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "meshd",
		Short: "Overlay networks across plain hosts",
		Long: `meshd connects hosts into an encrypted mesh, and gives the containers and processes on
them shared networks, service names and published ports. All hosts are equal: every
command works on any of them.

One host founds the mesh, the others join it:

  host-a$ sudo meshd init          prints the command for the others
  host-b$ sudo meshd join …

Then a web service finds its database by name, wherever the two run:

  host-a$ sudo meshd network create appnet
  host-a$ sudo meshd run --network appnet --service db -- postgres
  host-b$ sudo meshd run --network appnet --publish 8080:80 -- ./web   connects to "db"`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "the daemon's `PATH` (default $MESHD_SOCKET, else /run/meshd/meshd.sock)")
	root.AddCommand(
		agentCommand(a), initCommand(a), joinCommand(a), admitCommand(a), leaveCommand(a), membersCommand(a), evictCommand(a), statusCommand(a), eventsCommand(a), doctorCommand(a), tokenCommand(a),
		networkCommand(a), runCommand(a), runChildCommand(), attachCommand(a), detachCommand(a), endpointCommand(a), serviceCommand(a),
		pingCommand(a), dnsCommand(a), versionCommand(a), wireguardCommand(), dockerCommand(),
	)
	root.InitDefaultCompletionCmd("completion")
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			wantSubcommand(c)
		}
	}
	finish(root)
	return root
}

// group is a command that only has subcommands.
func group(name, short string, subcommands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: name + " COMMAND", Short: short}
	c.AddCommand(subcommands...)
	wantSubcommand(c)
	return c
}

// wantSubcommand makes it misuse to call a group by itself, or with a command that is not in it.
func wantSubcommand(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return misused("%s: which command? %s", cmd.CommandPath(), strings.Join(names(cmd), ", "))
	}
}

func unknownCommand(parent *cobra.Command, name string) error {
	message := fmt.Sprintf("unknown command %q", parent.CommandPath()+" "+name)
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		return misused("%s: did you mean %s?", message, strings.Join(near, " or "))
	}
	return misused("%s: there are %s", message, strings.Join(names(parent), ", "))
}

func names(parent *cobra.Command) []string {
	var list []string
	for _, c := range parent.Commands() {
		if !c.Hidden {
			list = append(list, c.Name())
		}
	}
	return list
}

// finish gives all commands what they have in common: an error of RunE is a failure, not misuse,
// unless it says so itself; and the commands keep the order in which they are explained.
func finish(command *cobra.Command) {
	command.DisableFlagsInUseLine = true
	command.SuggestionsMinimumDistance = 2
	if run := command.RunE; run != nil {
		command.RunE = func(cmd *cobra.Command, args []string) error {
			if err := run(cmd, args); err != nil {
				return &failure{err}
			}
			return nil
		}
	}
	for _, c := range command.Commands() {
		finish(c)
	}
}

// wants checks the number of positional arguments, which the usage line names.
func wants(least, most int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least {
			return misused("%s is missing", what)
		}
		if len(args) > most {
			return misused("%q is one argument too many", args[most])
		}
		return nil
	}
}
