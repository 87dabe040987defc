package main

import (
	"strconv"

	"github.com/spf13/cobra"
)

func membersCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "members [-o json]",
		Short: "List the hosts of the mesh",
		Long: `List all hosts that this one knows of, and whether they answer: alive, suspect (no answer
just now), failed (no answer for a while), left, or evicted.`,
		Example: "  meshd members\n  meshd members -o json",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		members, err := a.client().Members(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(members)
		}
		t := newTable("NAME", "STATUS", "ADDRESS", "ENDPOINT", "RTT", "SIGNER", "VERSION", "ID")
		for _, m := range members {
			name := m.Name
			if m.Self {
				name += " (this host)"
			}
			rtt := ""
			if m.RTT > 0 {
				rtt = strconv.FormatFloat(m.RTT, 'f', 2, 64) + " ms"
			}
			t.add(name, a.paintState(m.Status), m.Address, m.Endpoint, rtt, yesNo(m.Signer), m.Version, m.ID)
		}
		a.print(t, "", "No members yet.")
		return nil
	}
	return c
}

// memberNames completes the names of other hosts.
func (a *app) memberNames(cmd *cobra.Command) []string {
	members, err := a.client().Members(cmd.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, m := range members {
		if !m.Self {
			names = append(names, m.Name)
		}
	}
	return names
}
