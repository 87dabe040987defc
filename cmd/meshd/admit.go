package main

import (
	"bufio"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func admitCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "admit [NAME] [--code CODE] [-o json]",
		Short: "Let in a host that joins without a token",
		Long: `List the hosts that wait at this host's door after ` + "`meshd join`" + ` without a token, or let one in. Each shows a
pairing code on its own screen. Let it in only if the code is the same here and there: if it is not,
somebody sits between the two hosts. Only signers may do this.

On a terminal the command shows the code and asks. Elsewhere --code has to be the one that the
other host shows.`,
		Example: "  sudo meshd admit\n  sudo meshd admit host-c\n  sudo meshd admit host-c --code 4831-0927",
		Args:    wants(0, 1, ""),
	}
	code := c.Flags().String("code", "", "the pairing `CODE` that the other host shows")
	format := addFormat(c)
	c.ValidArgsFunction = complete(a.waitingNames, 1)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && *code != "" {
			return misused("the host's name is missing")
		}
		waiting, err := a.client().Waiting(cmd.Context())
		if err != nil {
			return err
		}
		if len(args) == 0 {
			return a.listWaiting(waiting, format)
		}
		if *code == "" {
			if *code, err = a.compareCodes(waiting, args[0]); err != nil {
				return err
			}
		}
		if err := a.client().LetIn(cmd.Context(), api.LetInRequest{Name: args[0], Code: *code}); err != nil {
			return err
		}
		a.say("%s is let in.", args[0])
		return nil
	}
	return c
}

func (a *app) listWaiting(waiting []api.Waiting, format *format) error {
	if format.json() {
		return a.printJSON(waiting)
	}
	t := newTable("NAME", "CODE", "ADDRESS", "WAITS")
	for _, w := range waiting {
		waits := "-"
		if since, err := time.Parse(time.RFC3339, w.Since); err == nil {
			waits = time.Since(since).Round(time.Second).String()
		}
		t.add(w.Name, w.Code, w.Address, waits)
	}
	a.print(t, "", "No host waits: run `meshd join` with this host's address, and without a token, on one that should join.")
	return nil
}

// compareCodes asks a person whether the host shows the code that it has here.
func (a *app) compareCodes(waiting []api.Waiting, name string) (string, error) {
	var found []api.Waiting
	for _, w := range waiting {
		if w.Name == name {
			found = append(found, w)
		}
	}
	switch {
	case len(found) == 0:
		return "", fmt.Errorf("no host %q waits at this host's door: see meshd admit, and run meshd join there", name)
	case len(found) > 1:
		return "", fmt.Errorf("%d hosts wait as %s: give the code that yours shows with --code", len(found), name)
	case !isTerminal(a.in) || !isTerminal(a.out):
		return "", misused("--code is missing: give the code that %s shows", name)
	}
	_, _ = fmt.Fprintf(a.out, "Does %s, at %s, show the pairing code %s? [y/N] ", name, found[0].Address, found[0].Code)
	answer, _ := bufio.NewReader(a.in).ReadString('\n') // an end of the input is a no
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return "", fmt.Errorf("%s is not let in: if it shows another code, somebody sits between the two hosts", name)
	}
	return found[0].Code, nil
}

func (a *app) waitingNames(cmd *cobra.Command) []string {
	waiting, err := a.client().Waiting(cmd.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, w := range waiting {
		names = append(names, w.Name)
	}
	return names
}
