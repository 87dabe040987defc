package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func serviceDrainCommand(a *app) *cobra.Command {
	var req api.DrainRequest
	var all bool
	c := &cobra.Command{
		Use:   "drain ENDPOINT | --all [--limit TIME] [--wait]",
		Short: "Send an endpoint no new connections",
		Long: `Take an endpoint, wherever it is, or all of this host, out of rotation, on every host: their services send them no new
connections. When the command returns, every host that is alive acts on it. What an endpoint has lives on until
it ends, or until the limit. ENDPOINT is its id, the start of it, or its name. service undrain puts it back.`,
		Example:           "  sudo meshd service drain 3f2a\n  sudo meshd service drain web-1 --limit 30s --wait\n  sudo meshd service drain --all --limit 10s --wait",
		Args:              wants(0, 1, "the endpoint's id or name (see meshd endpoint ls)"),
		ValidArgsFunction: complete(a.endpointNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return misused("service drain wants an endpoint's id or name (see meshd endpoint ls), or --all")
			}
			if !all {
				req.Endpoint = args[0]
			}
			done := a.progress("draining …")
			err := a.client().Drain(cmd.Context(), req)
			done()
			switch {
			case err != nil:
				return err
			case all:
				a.say("The endpoints of this host get no new connections.")
			default:
				a.say("Endpoint %s gets no new connections.", args[0])
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all endpoints of this host that belong to a service")
	c.Flags().DurationVar(&req.Limit, "limit", 0, "reset what still stands after this time (default: nothing is)")
	c.Flags().BoolVar(&req.Wait, "wait", false, "return only when nobody is connected to it any more, or at the limit")
	return c
}

func serviceUndrainCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "undrain ENDPOINT",
		Short:             "Send an endpoint connections again",
		Long:              "Put an endpoint that was drained, wherever it is, back into rotation, on every host.",
		Example:           "  sudo meshd service undrain 3f2a",
		Args:              wants(1, 1, "the endpoint's id or name (see meshd endpoint ls)"),
		ValidArgsFunction: complete(a.endpointNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.client().Drain(cmd.Context(), api.DrainRequest{Endpoint: args[0], Undo: true}); err != nil {
				return err
			}
			a.say("Endpoint %s is in rotation again.", args[0])
			return nil
		},
	}
}

// leaveLimit is how long a host that leaves goes on serving who is connected to its endpoints.
const leaveLimit = 10 * time.Second
