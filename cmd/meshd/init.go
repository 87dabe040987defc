package main

import (
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func initCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "init [-o json]",
		Short: "Found a mesh on this host",
		Long: `Found a mesh with this host as its first member. It prints the command with which other
hosts join, and a recovery code, once: keep that code somewhere safe. This host becomes a
signer: it may make tokens and shut hosts out.`,
		Example: "  sudo meshd init",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		done := a.progress("founding a mesh …")
		founded, err := a.client().Init(cmd.Context(), api.InitRequest{})
		done()
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(founded)
		}
		a.say("This host has founded the mesh %s.\n", founded.Mesh)
		a.say("On each host that should join it, run:\n\n    %s\n", founded.JoinCommand)
		a.say("The recovery code is shown only now. Keep it somewhere safe, away from this host:\n\n    %s", founded.RecoveryCode)
		return nil
	}
	return c
}
