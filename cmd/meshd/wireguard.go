package main

import (
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/peers/wireguard"
)

// wireguardCommand is the process that the agent starts where the kernel has no WireGuard.
func wireguardCommand() *cobra.Command {
	return &cobra.Command{
		Use:                wireguard.UserspaceCommand,
		Short:              "The tunnel in userspace; meshd agent starts it",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return wireguard.RunUserspace(cmd.Context(), args)
		},
	}
}
