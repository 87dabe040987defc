package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func joinCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "join ADDR[:PORT]... [--token TOKEN] [-o json]",
		Short: "Join a mesh",
		Long: `Join a mesh through any host that is in it already; name several and the first that
answers is used. The token comes from ` + "`meshd init`" + ` or ` + "`meshd token create`" + `: whoever has it may join
until it expires. The port is 7946 (TCP) unless that host's join.listen says otherwise.

Without a token, this command shows a pairing code, and waits until somebody runs ` + "`meshd admit`" + ` on the signer that it names,
sees the same code there, and lets this host in. The signer is at the address, or is one that the host at the address leads to.`,
		Example: "  sudo meshd join 192.0.2.10 --token TOKEN\n  sudo meshd join host-a.example.com host-b.example.com --token TOKEN\n  sudo meshd join 192.0.2.10",
		Args:    wants(1, 1000, "the address of a host that is in the mesh"),
	}
	token := c.Flags().String("token", "", "the `TOKEN` that admits this host; without, somebody has to let it in")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.JoinRequest{Addresses: args, Token: *token}
		wait := "joining through " + strings.Join(args, ", ") + " …"
		switch {
		case *token != "":
		case c.Flags().Changed("token"):
			return misused("--token is empty: give the token that `meshd token create` shows, or leave it out to be let in with a pairing code")
		default:
			pairing, err := a.client().Pair(cmd.Context(), api.PairRequest{Addresses: args})
			if err != nil {
				return err
			}
			showPairing(a, pairing, format)
			req = api.JoinRequest{Pairing: pairing.ID}
			wait = "waiting to be let in …"
		}
		done := a.progress(wait)
		status, err := a.client().Join(cmd.Context(), req)
		done()
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(status)
		}
		a.say("%s has joined the mesh %s as %s.", status.Name, status.Mesh, status.Address)
		a.say("See the other hosts with `meshd members`.")
		if status.Clock != "" {
			a.say("Only: %s.", status.Clock)
		}
		return nil
	}
	return c
}

// showPairing says what has to be done on the signer. With -o json it is not part of the output.
func showPairing(a *app, p api.Pairing, format *format) {
	out := a.out
	if format.json() {
		out = a.err
	}
	_, _ = fmt.Fprintf(out, `Pairing code: %s

On the signer at %s, run

    sudo meshd admit %s

and let this host in only if it shows the same code there. This host waits for ten minutes.

`, p.Code, p.Address, p.Name)
}
