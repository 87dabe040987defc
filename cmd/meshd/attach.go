package main

import (
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

// endpointFlags are what `run` and `attach` say of an endpoint.
type endpointFlags struct {
	networks []string
	service  string
	name     string
	publish  []string

	health         string
	healthInterval time.Duration
	healthTimeout  time.Duration
	healthRetries  int
	healthSuccess  int
}

const endpointUsage = "--network NET... [--service S] [--name N] [--publish " + publishForm + "]... [--health tcp:PORT|http:PORT/PATH]"

func addEndpointFlags(a *app, c *cobra.Command) *endpointFlags {
	f := new(endpointFlags)
	c.Flags().StringSliceVar(&f.networks, "network", nil, "a `NETWORK` to be on; give it several times for several")
	c.Flags().StringVar(&f.service, "service", "", "the `NAME` under which others find it; endpoints with one name share its connections")
	c.Flags().StringVar(&f.name, "name", "", "the endpoint's own `NAME`")
	c.Flags().StringSliceVar(&f.publish, "publish", nil, "answer on `"+publishForm+"` of every host; ports may be ranges")
	c.Flags().StringVar(&f.health, "health", "", "send it connections only while `tcp:PORT` accepts, or http:PORT/PATH answers 2xx or 3xx")
	c.Flags().DurationVar(&f.healthInterval, "health-interval", 0, "the `TIME` between two health checks (default 2s)")
	c.Flags().DurationVar(&f.healthTimeout, "health-timeout", 0, "the `TIME` that a health check may take (default 2s)")
	c.Flags().IntVar(&f.healthRetries, "health-retries", 0, "after `N` failures in a row it is unhealthy (default 3)")
	c.Flags().IntVar(&f.healthSuccess, "health-successes", 0, "after `N` successes in a row an unhealthy one is healthy again (default 1)")
	complete := complete(a.networkNames, 1000)
	_ = c.RegisterFlagCompletionFunc("network", complete) // fails only if the flag is not there
	return f
}

// request checks the flags and makes a request of them, without a namespace.
func (f *endpointFlags) request() (api.AttachRequest, error) {
	if len(f.networks) == 0 {
		return api.AttachRequest{}, misused("--network is missing: which network should it be on? See `meshd network ls`")
	}
	publish, err := parsePublish(f.publish)
	if err != nil {
		return api.AttachRequest{}, err
	}
	return api.AttachRequest{
		Networks: f.networks, Service: f.service, Name: f.name, Publish: publish,
		Health: f.health, HealthInterval: f.healthInterval, HealthTimeout: f.healthTimeout, HealthRetries: f.healthRetries,
		HealthSuccesses: f.healthSuccess,
	}, nil
}

func attachCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "attach --netns PATH|--pid PID " + endpointUsage + " [-o json]",
		Short: "Put a network namespace that exists on networks",
		Long: `Put a network namespace on networks: one that ` + "`ip netns add`" + ` made, or that of a process. With --pid it
is taken off when the process ends, with --netns by ` + "`meshd detach`" + `. Prints the endpoint's id.

Names resolve if its resolv.conf names the server 127.0.0.11; ` + "`ip netns exec NAME`" + ` uses /etc/netns/NAME/resolv.conf.`,
		Example: "  sudo meshd attach --netns /run/netns/blue --network appnet --service db\n  sudo meshd attach --pid 4711 --network appnet",
		Args:    wants(0, 0, ""),
	}
	flags := addEndpointFlags(a, c)
	netns := c.Flags().String("netns", "", "the namespace's `PATH`")
	pid := c.Flags().Int("pid", 0, "a process in the namespace")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if (*netns == "") == !cmd.Flags().Changed("pid") {
			return misused("use one of --netns and --pid")
		}
		if *netns == "" && *pid <= 0 {
			return misused("--pid %d: use the id of a process", *pid)
		}
		req, err := flags.request()
		if err != nil {
			return err
		}
		req.PID = *pid
		if *netns != "" {
			if req.NetNS, err = filepath.Abs(*netns); err != nil { // the daemon has another working directory
				return err
			}
		}
		attached, err := a.client().Attach(cmd.Context(), req)
		if err != nil {
			return err
		}
		if format.json() {
			return a.printJSON(attached)
		}
		a.say("%s", attached.ID)
		return nil
	}
	return c
}
