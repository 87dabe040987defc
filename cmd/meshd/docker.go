package main

import (
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/plugin/docker"
)

// dockerCommand is the process that answers Docker also while the agent is away. The agent starts it, or systemd when the host boots.
func dockerCommand() *cobra.Command {
	return &cobra.Command{
		Use:                docker.StandInCommand,
		Short:              "The plugin's socket for Docker; meshd agent or systemd starts it",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return docker.RunStandIn(cmd.Context(), ownVersion(), args, agent.TellReady)
		},
	}
}
