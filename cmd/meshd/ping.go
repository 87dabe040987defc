package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

// pingReport is what `meshd ping -o json` prints.
type pingReport struct {
	Name     string    `json:"name"`
	Address  string    `json:"address"`
	Sent     int       `json:"sent"`
	Answered int       `json:"answered"`
	RTT      []float64 `json:"rtt_ms"` // of those that were answered
}

func pingCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "ping NODE [--count N] [-o json]",
		Short: "See whether a host answers through the tunnel",
		Long: `Ping a host's address in the mesh: through WireGuard, from one mesh namespace to the other. The other host's
kernel answers, whether its agent runs or not. NODE is a name or an id from ` + "`meshd members`" + `. The exit code is 1 if
a ping was not answered.`,
		Example:           "  meshd ping host-b",
		Args:              wants(1, 1, "the host's name or id"),
		ValidArgsFunction: complete(a.memberNames, 1),
	}
	count := c.Flags().Int("count", 4, "how many pings, one a second: `N` from 1 to 1000")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if *count < 1 || *count > 1000 {
			return misused("--count %d: use a number from 1 to 1000", *count)
		}
		report, err := a.ping(cmd.Context(), args[0], *count, !format.json())
		if format.json() && report.Sent > 0 {
			if err := a.printJSON(report); err != nil {
				return err
			}
		}
		return err
	}
	return c
}

// ping pings a host count times, and says each answer if it is to show them. The error is the last one.
func (a *app) ping(ctx context.Context, node string, count int, show bool) (pingReport, error) {
	report := pingReport{Name: node, RTT: []float64{}}
	var last error
	for i := range count {
		if i > 0 {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return report, ctx.Err()
			}
		}
		answer, err := a.client().Ping(ctx, api.PingRequest{Node: node})
		if err != nil && (i == 0 || ctx.Err() != nil) {
			return report, err // the daemon says what is wrong; asking again would only repeat it
		}
		report.Sent++
		if err != nil {
			last = err
			continue
		}
		report.Name, report.Address = answer.Name, answer.Address
		report.Answered++
		report.RTT = append(report.RTT, answer.RTT)
		if show {
			a.say("%s answers from %s after %.2f ms", answer.Name, answer.Address, answer.RTT)
		}
	}
	if last != nil {
		return report, fmt.Errorf("%d of %d pings were answered; the last that was not: %w", report.Answered, report.Sent, last)
	}
	return report, nil
}
