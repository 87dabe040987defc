package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func eventsCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "events [--follow] [--since TIME] [-o json]",
		Short: "Tell what happened",
		Long: `Tell what happened in the mesh, oldest first, as this host saw it: hosts that came, failed and went, networks,
endpoints and their health, published ports, and what somebody else undid on this host and meshd made again. The daemon remembers the last
1,000 events since it began; its log (journalctl -u meshd) goes further back. With --follow and -o json each line is an event.`,
		Example: "  meshd events --since 10m\n  meshd events -f",
		Args:    wants(0, 0, ""),
	}
	follow := c.Flags().BoolP("follow", "f", false, "go on with what happens, until interrupted")
	since := c.Flags().Duration("since", 0, "only what happened in the last `TIME`, such as 10m (default: all)")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *since < 0 {
			return misused("--since %s: use a time that is not less than zero", *since)
		}
		all, err := a.client().Events(cmd.Context(), api.EventsRequest{})
		if err != nil {
			return err
		}
		events := recent(all.Events, *since, time.Now())
		switch {
		case *follow:
			return a.followEvents(cmd.Context(), events, all, format.json())
		case format.json():
			return a.printJSON(events)
		}
		for _, e := range events {
			a.sayEvent(e)
		}
		if len(events) == 0 {
			a.say("Nothing happened.")
		}
		return nil
	}
	return c
}

// recent is the events of some time; 0: all.
func recent(events []api.Event, since time.Duration, now time.Time) []api.Event {
	out := []api.Event{}
	for _, e := range events {
		at, err := time.Parse(time.RFC3339Nano, e.Time)
		if since == 0 || err != nil || now.Sub(at) <= since {
			out = append(out, e)
		}
	}
	return out
}

// followEvents prints events, and what comes after them. A daemon that is away for a moment, such as for an update, is waited for.
func (a *app) followEvents(ctx context.Context, events []api.Event, last api.Events, asJSON bool) error {
	next := api.EventsRequest{Run: last.Run, Wait: time.Minute}
	if n := len(last.Events); n > 0 {
		next.After = last.Events[n-1].Sequence
	}
	away := time.Time{}
	for {
		for _, e := range events {
			if !asJSON {
				a.sayEvent(e)
			} else if err := json.NewEncoder(a.out).Encode(e); err != nil {
				return fmt.Errorf("writing the output: %w", err)
			}
		}
		more, err := a.client().Events(ctx, next)
		if ctx.Err() != nil {
			return nil // interrupted: that is how it ends
		}
		var refused *api.Error
		if errors.As(err, &refused) && refused.Code == api.CodeUnavailable {
			if away.IsZero() {
				away = time.Now()
			}
			if time.Since(away) < eventsPatience {
				events = nil
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(time.Second):
				}
				continue
			}
		}
		if err != nil {
			return err
		}
		away = time.Time{}
		if more.Run != next.Run {
			next.Run, next.After = more.Run, 0 // another agent's numbers
		}
		if events = more.Events; len(events) > 0 {
			next.After = events[len(events)-1].Sequence
		}
	}
}

// eventsPatience is how long a daemon may be away that is followed.
const eventsPatience = 30 * time.Second

func (a *app) sayEvent(e api.Event) {
	at, err := time.Parse(time.RFC3339Nano, e.Time)
	if err != nil {
		a.say("%s  %s", e.Time, e.What)
		return
	}
	a.say("%s  %s", at.Local().Format("2006-01-02 15:04:05.000"), e.What)
}
