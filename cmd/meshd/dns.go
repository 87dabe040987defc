package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func dnsCommand(a *app) *cobra.Command {
	return group("dns", "Ask for names as endpoints do", dnsQueryCommand(a))
}

func dnsQueryCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "query NAME [--type TYPE] [--from ENDPOINT] [-o json]",
		Short: "Resolve a name as an endpoint does",
		Long: `Resolve a name, or an address to its name, exactly as a program in an endpoint of this host would: the mesh's names
of the networks that it is on, and all others by the upstream name servers. Without --from it is an endpoint that is on all
networks. The exit code is 1 if there is no answer.`,
		Example: "  meshd dns query db.appnet\n  meshd dns query db --from web-1\n  meshd dns query tasks.db.appnet --type AAAA",
		Args:    wants(1, 1, "the name"),
	}
	req := api.ResolveRequest{}
	c.Flags().StringVar(&req.Type, "type", "", "record `TYPE`, such as AAAA or SRV (default A, or PTR for an address)")
	c.Flags().StringVar(&req.Endpoint, "from", "", "the `ENDPOINT` of this host that asks: its id or name")
	_ = c.RegisterFlagCompletionFunc("from", complete(a.endpointNames, 1)) // fails only if the flag is not there
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req.Name = args[0]
		answer, err := a.client().Resolve(cmd.Context(), req)
		if err != nil {
			return err
		}
		if format.json() {
			if err := a.printJSON(answer); err != nil {
				return err
			}
			return unresolved(answer)
		}
		t := newTable("NAME", "TTL", "TYPE", "DATA")
		for _, r := range answer.Records {
			t.add(r.Name, fmt.Sprint(r.TTL), r.Type, r.Data)
		}
		if len(answer.Records) > 0 {
			a.print(t, "", "")
		}
		return unresolved(answer)
	}
	return c
}

// unresolved says why an answer holds nothing, or nil.
func unresolved(answer api.Resolution) error {
	name := strings.TrimSuffix(answer.Name, ".")
	switch {
	case answer.Code == "NOERROR" && len(answer.Records) > 0:
		return nil
	case answer.Code == "NOERROR":
		return fmt.Errorf("%s has no record of type %s: ask for another with --type", name, answer.Type)
	case answer.Code == "NXDOMAIN":
		return fmt.Errorf("there is no name %s%s: see meshd service ls, and on which networks the endpoint is", name, ifAny(" (says ", answer.Source, ")"))
	default:
		return fmt.Errorf("asking for %s failed: %s%s: see dns.upstreams, and this host's /etc/resolv.conf", name, answer.Code, ifAny(" (", answer.Why, ")"))
	}
}
