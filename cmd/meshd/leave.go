package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func leaveCommand(a *app) *cobra.Command {
	var limit time.Duration
	c := &cobra.Command{
		Use:   "leave [--drain TIME]",
		Short: "Leave the mesh and clean this host up",
		Long: `Leave the mesh: the other hosts stop sending new connections to this one at once. Once nobody is connected to
its endpoints any more, or after the time that --drain gives, everything that meshd made here is removed: networks,
interfaces, rules, keys. What runs here goes on, without its networks, and is named.`,
		Example: "  sudo meshd leave",
		Args:    wants(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			done := a.progress("leaving the mesh …")
			stranded, err := leave(cmd.Context(), a.client(), limit)
			done()
			if err != nil {
				return err
			}
			a.say("This host has left the mesh. Nothing of it is left here.")
			if len(stranded) > 0 {
				a.say("These go on without their networks: " + strings.Join(stranded, ", ") + ". End them, or start them again once this host is in a mesh.")
			}
			return nil
		},
	}
	c.Flags().DurationVar(&limit, "drain", leaveLimit, "let what is connected to endpoints of this host finish, for so long at most; 0: not at all")
	return c
}

// leave drains this host and takes it out of the mesh. It returns the names of the endpoints that were on this host's networks.
func leave(ctx context.Context, client *api.Client, limit time.Duration) (stranded []string, err error) {
	if limit > 0 {
		err := client.Drain(ctx, api.DrainRequest{Limit: limit, Wait: true})
		var known *api.Error
		if err != nil && !errors.As(err, &known) { // what the daemon cannot drain must not keep the host in the mesh
			return nil, err
		}
	}
	stranded = endpointsHere(ctx, client)
	return stranded, client.Leave(ctx)
}

// endpointsHere names the endpoints of this host, each once. It is empty also if the daemon cannot say.
func endpointsHere(ctx context.Context, client *api.Client) []string {
	endpoints, err := client.Endpoints(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range endpoints {
		if e.Self && !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}
