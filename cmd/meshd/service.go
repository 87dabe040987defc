package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func serviceCommand(a *app) *cobra.Command {
	return group("service", "Show and change services: their addresses, ports and replicas", serviceListCommand(a), serviceInspectCommand(a), serviceUpdateCommand(a), serviceDrainCommand(a), serviceUndrainCommand(a))
}

func serviceListCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "ls [-o json]",
		Short: "List the services",
		Long: `List the services of all networks. A service is the endpoints that share a name on a
network; connections to its virtual IP (VIP) are spread over them.`,
		Example: "  meshd service ls",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		services, err := a.client().Services(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(services)
		}
		t := newTable("NAME", "NETWORK", "VIP", "PORTS", "ENDPOINTS")
		for _, s := range services {
			t.add(s.Name, s.Network, s.VIP, strings.Join(portsOf(s), ", "), strconv.Itoa(len(s.Endpoints)))
		}
		a.print(t, "", "No services yet: start one with `meshd run --network NAME --service NAME -- COMMAND`.")
		return nil
	}
	return c
}

func serviceInspectCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:               "inspect NAME[.NETWORK] [-o json]",
		Short:             "Show a service and its replicas",
		Example:           "  meshd service inspect db\n  meshd service inspect db.appnet",
		Args:              wants(1, 1, "the service's name"),
		ValidArgsFunction: complete(a.serviceNames, 1),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.client().Service(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(s)
		}
		a.say("name     %s", s.Name)
		a.say("network  %s", s.Network)
		a.say("vip      %s%s", s.VIP, ifAny(", ", s.VIP6, ""))
		a.sayPorts(s)
		a.say("\nendpoints")
		a.printEndpoints(s.Endpoints, "  ")
		return nil
	}
	return c
}

// sayPorts tells which ports a service publishes, and which it does not though it was asked to.
func (a *app) sayPorts(s api.Service) {
	if published := api.FormatPublish(gained(s.Ports)); len(published) > 0 {
		a.say("ports    %s (published on every host)", strings.Join(published, ", "))
	}
	for _, p := range s.Ports {
		if p.Conflict != "" {
			a.say("         %d/%s is published by service %s, not by this one", p.Published, p.Protocol, p.Conflict)
		}
		if len(p.HeldOn) > 0 {
			a.say("         %d/%s is used by another program on %s, and not published there", p.Published, p.Protocol, strings.Join(p.HeldOn, ", "))
		}
	}
	for _, p := range s.Withdrawn {
		a.say("         %d/%s was withdrawn", p.Port, p.Protocol)
	}
	if s.Affinity != "none" {
		a.say("affinity %s", s.Affinity)
	}
	if s.Prefer != "none" {
		a.say("prefer   %s", s.Prefer)
	}
}

// gained are the ports that no other service has.
func gained(ports []api.ServicePort) []api.Publish {
	var list []api.Publish
	for _, p := range ports {
		if p.Conflict == "" {
			list = append(list, p.Publish)
		}
	}
	return list
}

// portsOf are a service's ports for a table, as --publish writes them; those that another has are marked.
func portsOf(s api.Service) []string {
	words := api.FormatPublish(gained(s.Ports))
	for _, p := range s.Ports {
		if p.Conflict != "" {
			words = append(words, fmt.Sprintf("%d/%s taken by %s", p.Published, p.Protocol, p.Conflict))
		}
	}
	return words
}

func (a *app) serviceNames(cmd *cobra.Command) []string {
	services, err := a.client().Services(cmd.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, s := range services {
		names = append(names, s.Name+"."+s.Network)
	}
	return names
}
