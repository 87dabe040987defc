package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func networkGrowCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "grow NAME [--subnet CIDR] [-o json]",
		Short: "Give a network more addresses",
		Long: `Give a network one more IPv4 subnet. What is on it keeps its addresses, and reaches what will
have one of the new. The subnet is chosen unless you name one.`,
		Example:           "  sudo meshd network grow appnet\n  sudo meshd network grow backnet --subnet 10.71.0.0/16",
		Args:              wants(1, 1, "the network's name"),
		ValidArgsFunction: complete(a.networkNames, 1),
	}
	var req api.GrowthRequest
	c.Flags().StringVar(&req.Subnet, "subnet", "", "more addresses, as an IPv4 `CIDR` such as 10.71.0.0/16")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		if req.Subnet != "" {
			if err := checkSubnets([]string{req.Subnet}); err != nil {
				return err
			}
		}
		network, err := a.client().GrowNetwork(cmd.Context(), req)
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(network)
		}
		a.say("Network %s now has %s.", network.Name, strings.Join(network.Subnets, ", "))
		return nil
	}
	return c
}
