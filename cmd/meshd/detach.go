package main

import "github.com/spf13/cobra"

func detachCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "detach ENDPOINT",
		Short:             "Take an endpoint of this host off its networks",
		Long:              "Take an endpoint of this host off its networks. ENDPOINT is its id, the start of it, or its name. Its namespace and processes stay.",
		Example:           "  sudo meshd detach 3f2a",
		Args:              wants(1, 1, "the endpoint's id or name (see meshd endpoint ls)"),
		ValidArgsFunction: complete(a.endpointNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.client().Detach(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.say("Endpoint %s is detached.", args[0])
			return nil
		},
	}
}
