package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/gateway"
	"github.com/meshd/meshd/ingress"
	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/overlay"
)

// States of a check.
const (
	checkOK      = "ok"
	checkWarning = "warning" // it works, but not as well as it could, or not for everybody
	checkProblem = "problem"
)

func ok(name, format string, args ...any) api.Check {
	return api.Check{Name: name, State: checkOK, Detail: fmt.Sprintf(format, args...)}
}

func warning(name, format string, args ...any) api.Check {
	return api.Check{Name: name, State: checkWarning, Detail: fmt.Sprintf(format, args...)}
}

func problem(name, format string, args ...any) api.Check {
	return api.Check{Name: name, State: checkProblem, Detail: fmt.Sprintf(format, args...)}
}

// Doctor checks this host and the way to every other. With Fix it first makes again what others undid.
func (a *Agent) Doctor(ctx context.Context, req api.DoctorRequest) (api.Diagnosis, error) {
	var fixed []api.Check
	s, err := a.member()
	if req.Fix && err == nil {
		fixed = s.fix(ctx)
	}
	checks := checkKernel(ctx, a.cfg.RuntimeDir)
	checks = append(checks, checkPrograms()...)
	checks = append(checks, checkClock())
	if err != nil {
		checks = append(checks, a.checkIdle()...)
	} else {
		checks = append(checks, s.examine(ctx)...)
	}
	healthy := true
	for _, c := range checks {
		healthy = healthy && c.State != checkProblem
	}
	return api.Diagnosis{Healthy: healthy, Checks: append(fixed, checks...)}, nil
}

// checkIdle is what can be known before a host belongs to a mesh.
func (a *Agent) checkIdle() []api.Check {
	checks := []api.Check{ok("mesh", "none yet: found one with meshd init, or join one with meshd join")}
	if holder, taken := portHolder("udp", a.cfg.WireGuard.ListenPort); taken {
		checks = append(checks, problem("port "+fmt.Sprint(a.cfg.WireGuard.ListenPort)+"/udp",
			"it is in use by %s, and WireGuard needs it: end that, or set wireguard.listen_port to another", holder))
	}
	if err := gateway.CheckSubnets(GatewayBridge, a.cfg.Gateway.Subnets); err != nil {
		checks = append(checks, problem("addresses", "%v", err))
	}
	return checks
}

// checkKernel tries what the parts need of the kernel in namespaces that nobody uses, with the parts themselves.
func checkKernel(ctx context.Context, dir string) []api.Check {
	try := func(name, what string, try func(path string) error) api.Check {
		path := filepath.Join(dir, fmt.Sprintf("doctor-%d", os.Getpid()))
		h, err := netns.Create(path)
		if err != nil {
			return problem(name, "no network namespace can be made: %v", err)
		}
		_ = h.Close() // it stays by its path
		err = try(path)
		if removed := netns.Delete(path); err == nil {
			err = removed
		}
		if err != nil {
			return problem(name, "%s does not work: %v: load the modules (meshd doctor --fix tries), or use a kernel that has them", what, err)
		}
		return ok(name, "%s work", what)
	}
	return []api.Check{
		try("kernel: networks", "VXLAN devices and bridges", func(path string) error {
			return overlay.New(overlay.Options{MeshNamespace: path}).Apply(ctx, overlay.Config{
				Local:    catalog.MeshAddress("", ""),
				Networks: []overlay.Network{{Name: "doctor", VNI: 1, MTU: minMTU}},
			})
		}),
		try("kernel: translation", "nftables, NAT and connection tracking", ingress.Try),
	}
}

func checkPrograms() []api.Check {
	var missing []string
	for _, program := range []string{"iptables", "iptables-save", "ip6tables", "ip6tables-save"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return []api.Check{problem("programs", "%s not found: install iptables (Debian: apt-get install iptables)", strings.Join(missing, ", "))}
	}
	return []api.Check{ok("programs", "iptables is there")}
}
