package main

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func networkCommand(a *app) *cobra.Command {
	return group("network", "Make, list, enlarge and remove networks", networkCreateCommand(a), networkGrowCommand(a), networkListCommand(a), networkInspectCommand(a), networkRemoveCommand(a))
}

func networkCreateCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME [--subnet CIDR]... [--internal] [-o json]",
		Short: "Make a network that spans all hosts",
		Long: `Make a network. What is on it reaches each other by name and address, on whichever hosts it
runs; other networks are out of reach. Addresses are chosen unless you name a subnet.`,
		Example: "  sudo meshd network create appnet\n  sudo meshd network create backnet --subnet 10.70.0.0/16 --internal",
		Args:    wants(1, 1, "the network's name"),
	}
	var req api.NetworkRequest
	c.Flags().StringSliceVar(&req.Subnets, "subnet", nil, "its addresses, as `CIDR` such as 10.70.0.0/16; at most one IPv4 and one IPv6")
	c.Flags().BoolVar(&req.Internal, "internal", false, "without a way to the outside")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		if err := checkSubnets(req.Subnets); err != nil {
			return err
		}
		network, err := a.client().CreateNetwork(cmd.Context(), req)
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(network)
		}
		a.say("Network %s is made, with %s.", network.Name, strings.Join(network.Subnets, " and "))
		a.say("Run something on it: sudo meshd run --network %s -- COMMAND", network.Name)
		return nil
	}
	return c
}

// checkSubnets finds slips before the daemon is asked.
func checkSubnets(subnets []string) error {
	seen := map[bool]string{}
	for _, text := range subnets {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return misused("--subnet %q: use ADDRESS/BITS, such as 10.70.0.0/16", text)
		}
		if prefix != prefix.Masked() {
			return misused("--subnet %q has bits set after its prefix: use %s", text, prefix.Masked())
		}
		if other, twice := seen[prefix.Addr().Is4()]; twice {
			return misused("--subnet %s and %s are of one kind: use at most one IPv4 and one IPv6 subnet", other, text)
		}
		seen[prefix.Addr().Is4()] = text
	}
	return nil
}

func networkListCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "ls [-o json]",
		Short:   "List the networks",
		Example: "  meshd network ls",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		networks, err := a.client().Networks(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(networks)
		}
		a.printNetworks(networks, "")
		return nil
	}
	return c
}

func (a *app) printNetworks(networks []api.Network, indent string) {
	t := newTable("NAME", "SUBNETS", "ENDPOINTS", "USED", "INTERNAL", "VNI", "MTU")
	for _, n := range networks {
		t.add(n.Name, strings.Join(n.Subnets, ", "), strconv.Itoa(n.Endpoints), strconv.Itoa(n.Usage)+"%", yesNo(n.Internal), strconv.FormatUint(uint64(n.VNI), 10), number(n.MTU))
	}
	a.print(t, indent, "No networks yet: make one with `meshd network create NAME`.")
}

func networkInspectCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:               "inspect NAME [-o json]",
		Short:             "Show a network, what is on it, and who hands out its addresses",
		Example:           "  meshd network inspect appnet",
		Args:              wants(1, 1, "the network's name"),
		ValidArgsFunction: complete(a.networkNames, 1),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := a.client().Network(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(n)
		}
		a.say("name      %s", n.Name)
		a.say("subnets   %s", strings.Join(n.Subnets, ", "))
		a.say("internal  %s", yesNo(n.Internal))
		a.say("vni       %d", n.VNI)
		a.say("mtu       %d", n.MTU)
		a.say("used      %d%% of its addresses", n.Usage)
		a.say("created   %s", n.Created)
		a.say("\nendpoints")
		a.printEndpoints(n.Members, "  ")
		a.say("\naddress blocks")
		t := newTable("RANGE", "NODE")
		for _, b := range n.Blocks {
			t.add(b.Range, b.Node)
		}
		a.print(t, "  ", "No host hands out its addresses yet.")
		return nil
	}
	return c
}

func networkRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME",
		Short:             "Remove a network that nothing is on",
		Example:           "  sudo meshd network rm appnet",
		Args:              wants(1, 1, "the network's name"),
		ValidArgsFunction: complete(a.networkNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.client().RemoveNetwork(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.say("Network %s is removed.", args[0])
			return nil
		},
	}
}

func (a *app) networkNames(cmd *cobra.Command) []string {
	networks, err := a.client().Networks(cmd.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range networks {
		names = append(names, n.Name)
	}
	return names
}
