package main

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…).
var version string

// ownVersion is what this binary was built from.
func ownVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

// versions is the JSON of `meshd version`.
type versions struct {
	Client string `json:"client"`
	Daemon string `json:"daemon"` // empty: it does not answer
}

func versionCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:     "version [-o json]",
		Short:   "Show the versions of this program and of the daemon",
		Example: "  meshd version",
		Args:    wants(0, 0, ""),
	}
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
		defer cancel()
		v := versions{Client: ownVersion()}
		daemon, err := a.client().Version(ctx)
		if err == nil {
			v.Daemon = daemon.Version
		}
		if format.json() {
			return a.printJSON(v)
		}
		a.say("meshd   %s", v.Client)
		if err != nil {
			a.say("daemon  does not answer at %s", a.socketPath())
			return nil
		}
		a.say("daemon  %s", v.Daemon)
		return nil
	}
	return c
}
