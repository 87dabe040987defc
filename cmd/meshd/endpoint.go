package main

import (
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func endpointCommand(a *app) *cobra.Command {
	return group("endpoint", "List what is on the networks", endpointListCommand(a))
}

func endpointListCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "ls [-o json]",
		Short:   "List the endpoints of all hosts",
		Long:    "List all endpoints: containers and processes on a network, on any host. One that is on two networks has two lines.",
		Example: "  meshd endpoint ls",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		endpoints, err := a.client().Endpoints(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(endpoints)
		}
		a.printEndpoints(endpoints, "")
		return nil
	}
	return c
}

func (a *app) printEndpoints(endpoints []api.Endpoint, indent string) {
	t := newTable("ID", "NAME", "SERVICE", "NETWORK", "NODE", "IP", "MAC", "HEALTH")
	for _, e := range endpoints {
		t.add(e.ID, e.Name, e.Service, e.Network, e.Node, e.IP, e.MAC, a.paintState(e.Health)+ifAny(" (", e.Reason, ")"))
	}
	a.print(t, indent, "No endpoints yet: start one with `meshd run --network NAME -- COMMAND`.")
}

func (a *app) endpointNames(cmd *cobra.Command) []string {
	endpoints, err := a.client().Endpoints(cmd.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range endpoints {
		names = append(names, e.Name)
	}
	return names
}
