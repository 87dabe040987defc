package main

import (
	"context"
	"fmt"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/meshd/meshd/api"
)

func doctorCommand(a *app) *cobra.Command {
	var req api.DoctorRequest
	c := &cobra.Command{
		Use:   "doctor [--fix] [-o json]",
		Short: "Check this host, and the way to every other",
		Long: `Check what meshd needs of this host (kernel, programs, ports, firewall, forwarding, addresses, MTU, clock), and try the
way to every other host with small and with large packets. The exit code is 1 if there is a problem; a warning is none.
--fix mends what needs nobody's decision: it loads kernel modules, and makes again what others undid. It never opens a firewall.`,
		Example: "  meshd doctor\n  sudo meshd doctor --fix",
		Args:    wants(0, 0, ""),
	}
	c.Flags().BoolVar(&req.Fix, "fix", false, "mend what needs nobody's decision")
	format := addFormat(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if req.Fix {
			loadModules(cmd.Context())
		}
		done := a.progress("examining …")
		diagnosis, err := a.client().Doctor(cmd.Context(), req)
		done()
		if err != nil {
			return err
		}
		if format.json() {
			err = a.printJSON(diagnosis)
		} else {
			a.printDiagnosis(diagnosis)
		}
		if err != nil || diagnosis.Healthy {
			return err
		}
		return fmt.Errorf("this host has a problem: see above for what to do")
	}
	return c
}

func (a *app) printDiagnosis(d api.Diagnosis) {
	for _, c := range d.Checks {
		state := map[string]string{"ok": a.paint(green, "ok     "), "warning": a.paint(yellow, "warning"), "problem": a.paint(red, "PROBLEM")}[c.State]
		if c.Fixed {
			state = a.paint(green, "mended ")
		}
		a.say("%s  %s: %s", state, c.Name, oneLine(c.Detail))
	}
}

// modules are what the kernel loads by itself where it may.
var modules = []string{"vxlan", "bridge", "veth", "nf_tables", "nf_conntrack", "nft_chain_nat", "wireguard", "tun"}

// loadModules loads them from here, for the daemon's unit may not. One that is not there as a module is built in, or
// missing: the checks tell.
func loadModules(ctx context.Context) {
	program, err := exec.LookPath("modprobe")
	if err != nil {
		return
	}
	for _, module := range modules {
		_ = exec.CommandContext(ctx, program, "--quiet", module).Run()
	}
}
