package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/agent"
	"github.com/meshd/meshd/configs"
)

// startAgent runs the daemon until ctx ends. Tests of the command line have another one.
var startAgent = func(ctx context.Context, config configs.Config, log *slog.Logger, version string) error {
	daemon, err := agent.New(config, log, version)
	if err != nil {
		return err
	}
	return daemon.Run(ctx)
}

func agentCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "agent [--config PATH] [flags]",
		Short: "Run the daemon in the foreground",
		Long: `Run the daemon. It does nothing until this host founds a mesh (meshd init) or joins one
(meshd join), and then keeps the host as the mesh wants it. When it ends, networks and
tunnels go on working, and the next one takes over.

Each key of the configuration file is also an environment variable (wireguard.mode: MESHD_WIREGUARD_MODE) and a
flag (--wireguard-mode). A flag goes before the environment, and that before the file.`,
		Example: "  sudo systemctl start meshd        as a service\n  sudo meshd agent --log-level debug",
		Args:    wants(0, 0, ""),
	}
	path := c.Flags().String("config", "", "configuration file (default $MESHD_CONFIG, else "+configs.DefaultPath+" if it is there)")
	configs.AddFlags(c.Flags())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *path == "" {
			*path = os.Getenv("MESHD_CONFIG")
		}
		file, required := *path, *path != ""
		if !required {
			file = configs.DefaultPath
		}
		config, err := configs.Load(file, required, cmd.Flags())
		if err != nil {
			return err
		}
		if os.Geteuid() != 0 {
			return errors.New("the agent needs root: it makes interfaces, network namespaces and firewall rules: start it with `systemctl start meshd` or `sudo meshd agent`")
		}
		return startAgent(cmd.Context(), config, newLog(a, config.Log), ownVersion())
	}
	return c
}

// newLog writes to standard error.
func newLog(a *app, config configs.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: config.Level}
	if config.Format == configs.FormatJSON {
		return slog.New(slog.NewJSONHandler(a.err, options))
	}
	return slog.New(slog.NewTextHandler(a.err, options))
}
