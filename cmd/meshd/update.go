package main

import (
	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func serviceUpdateCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "update NAME[.NETWORK] [--publish " + publishForm + "]... [--unpublish PORT[/tcp|udp]]... [--affinity none|client-ip] [--prefer none|local] [-o json]",
		Short: "Change a service on all hosts",
		Long: `Change a service on all hosts, for the endpoints that it has and for those to come. What is not given stays.

A port given with --publish leads to all of its endpoints. --unpublish takes a port back, also one that
endpoints were started with. With --affinity client-ip all connections of one client address go to one
endpoint, as long as that works. With --prefer local connections go to the endpoints of the host that they
come from, while there are any, and else to the nearest by measured round trip.`,
		Example:           "  meshd service update web --publish 443:8443 --unpublish 8080\n  meshd service update web.appnet --affinity client-ip --prefer local",
		Args:              wants(1, 1, "the service's name"),
		ValidArgsFunction: complete(a.serviceNames, 1),
	}
	publish := c.Flags().StringSlice("publish", nil, "answer on `"+publishForm+"` of every host; ports may be ranges")
	unpublish := c.Flags().StringSlice("unpublish", nil, "answer no more on `PORT[/tcp|udp]`; it may be a range")
	affinity := c.Flags().String("affinity", "", "`none`: connections are drawn one by one; client-ip: a client keeps its endpoint")
	prefer := c.Flags().String("prefer", "", "`none`: all endpoints are alike; local: the host's own first, then the nearest")
	for flag, values := range map[string][]string{"affinity": {"none", "client-ip"}, "prefer": {"none", "local"}} {
		_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // fails only if the flag is not there
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.ServiceRequest{Affinity: *affinity, Prefer: *prefer}
		var err error
		if req.Publish, err = parsePublish(*publish); err != nil {
			return err
		}
		if req.Unpublish, err = parseUnpublish(*unpublish); err != nil {
			return err
		}
		switch {
		case req.Affinity != "" && req.Affinity != "none" && req.Affinity != "client-ip":
			return misused("--affinity %q: use none or client-ip", req.Affinity)
		case req.Prefer != "" && req.Prefer != "none" && req.Prefer != "local":
			return misused("--prefer %q: use none or local", req.Prefer)
		case cmd.Flags().NFlag() == 0 || req.Affinity == "" && req.Prefer == "" && len(req.Publish) == 0 && len(req.Unpublish) == 0:
			return misused("what should change? Use --publish, --unpublish, --affinity or --prefer")
		}
		s, err := a.client().UpdateService(cmd.Context(), args[0], req)
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(s)
		}
		a.say("Service %s.%s is changed on all hosts.", s.Name, s.Network)
		return nil
	}
	return c
}
