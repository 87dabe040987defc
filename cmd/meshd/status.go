package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func statusCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "status [-o json]",
		Short: "Show how this host is doing",
		Long: `Show this host, its tunnels to the other hosts, its networks, and what is wrong, if
anything is: the exit code is 1 then.`,
		Example: "  meshd status\n  meshd status -o json",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		status, err := a.client().Status(cmd.Context())
		if err != nil {
			return err
		}
		if format.json() {
			err = a.printJSON(status)
		} else {
			a.printStatus(status)
		}
		if err != nil || status.Healthy {
			return err
		}
		return unhealthy(status.Health)
	}
	return c
}

// unhealthy is the one line for standard error.
func unhealthy(problems []string) error {
	if len(problems) == 0 {
		return fmt.Errorf("this host is not healthy, and does not know why: see `journalctl -u meshd`")
	}
	more := ""
	if n := len(problems) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more, see above)", n)
	}
	return fmt.Errorf("this host is not healthy: %s%s", problems[0], more)
}

func (a *app) printStatus(s api.Status) {
	a.say("host       %s%s", s.Name, ifAny(" (", s.Node, ")"))
	a.say("version    %s", s.Version)
	switch s.State {
	case "idle":
		a.say("mesh       none: found one with `meshd init`, or join one with `meshd join`")
	case "joining":
		a.say("mesh       joining %s", s.Mesh)
	default:
		a.say("mesh       %s", s.Mesh)
		a.say("address    %s", s.Address)
		a.say("wireguard  %s", s.WireGuard)
	}
	if s.Healthy {
		a.say("health     %s", a.paint(green, "good"))
	}
	for i, problem := range s.Health {
		label := "health     "
		if i > 0 {
			label = "           "
		}
		a.say("%s%s", label, a.paint(red, oneLine(problem)))
	}
	if s.State == "idle" {
		return
	}
	if s.Repairs.Last != "" {
		total := 0
		for _, part := range s.Repairs.Counts {
			total += part.Changes
		}
		a.say("repaired   %d changes that somebody else had undone, last at %s in %s: %s", total, s.Repairs.Last, s.Repairs.Part, oneLine(s.Repairs.What))
	}
	if s.Docker.State == "waiting" || s.Docker.State == "connected" {
		a.say("docker     %s%s", s.Docker.State, ifAny(" (", s.Docker.Version, ")"))
	}
	a.say("\npeers")
	a.printPeers(s.Peers)
	a.say("\nnetworks")
	a.printNetworks(s.Networks, "  ")
}

func ifAny(before, text, after string) string {
	if text == "" {
		return ""
	}
	return before + text + after
}

func (a *app) printPeers(peers []api.PeerStatus) {
	t := newTable("NAME", "PATH", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "MTU")
	for _, p := range peers {
		t.add(p.Name, a.paintState(p.Path), p.Endpoint, age(p.Handshake), bytes(p.RX), bytes(p.TX), number(p.MTU))
	}
	a.print(t, "  ", "No other host yet: let one join with the command that `meshd token create` prints.")
}

// age is a time that has passed, in seconds; a negative one never came.
func age(seconds float64) string {
	if seconds < 0 {
		return "never"
	}
	return time.Duration(seconds*float64(time.Second)).Round(time.Second).String() + " ago"
}

// bytes is an amount as people read it, in powers of 1,000.
func bytes(n uint64) string {
	value, unit := float64(n), 0
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for value >= 999.95 && unit < len(units)-1 {
		value /= 1000
		unit++
	}
	if unit == 0 {
		return strconv.FormatUint(n, 10) + " B"
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0") + " " + units[unit]
}

// number is a number, or nothing if it is not known.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
