package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// Rulesets that deny by default, as the tools write them (shortened to what matters here), and how each lets the mesh's
// own ports in.
var firewalls = map[string]struct{ deny, allow, command string }{
	"ufw": {
		deny: `iptables-restore -n <<'END'
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
:ufw-before-forward - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
END`,
		allow:   "iptables -A ufw-user-input -p udp --dport 51820 -j ACCEPT; iptables -A ufw-user-input -p tcp --dport 7946 -j ACCEPT",
		command: "ufw allow 51820/udp",
	},
	"firewalld": {
		deny: `nft -f - <<'END'
table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		goto filter_IN_public
	}
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		oifname { "eth0", "meshd0" } accept
		reject with icmpx admin-prohibited
	}
	chain filter_IN_public_allow { }
	chain filter_IN_public {
		jump filter_IN_public_allow
		meta l4proto { icmp, ipv6-icmp } accept
		reject with icmpx admin-prohibited
	}
}
END`,
		allow:   "nft add rule inet firewalld filter_IN_public_allow udp dport 51820 accept; nft add rule inet firewalld filter_IN_public_allow tcp dport 7946 accept",
		command: "firewall-cmd --permanent --add-port=51820/udp",
	},
}

type diagnosis struct {
	Healthy bool
	Checks  []struct{ Name, State, Detail string }
}

// diagnose returns what the doctor says on a host of what is not all right.
func diagnose(t *testing.T, m *lab.Mesh, h *lab.Host) (d diagnosis, bad string, err error) {
	t.Helper()
	out, failed := m.Meshd(testContext(t), h, "doctor", "-o", "json") // it fails with a problem
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		return d, "", fmt.Errorf("%w: %s, %w", err, out, failed)
	}
	var all []string
	for _, c := range d.Checks {
		if c.State != "ok" {
			all = append(all, fmt.Sprintf("%s: %s: %s", c.State, c.Name, c.Detail))
		}
	}
	return d, strings.Join(all, "\n"), nil
}

// A firewall that denies by default is found out by the doctor, with the words that open it. Published ports answer
// behind it, ports that are not published do not, and endpoints keep their way out.
func TestBehindAFirewall(t *testing.T) {
	for name, wall := range firewalls {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, 2)
			ctx := testContext(t)
			h1, h2, outside := m.Host("h1"), m.Host("h2"), m.Host("outside")
			must := func(h *lab.Host, script string) {
				t.Helper()
				if _, err := h.Run(ctx, "sh", "-ec", script); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Form(ctx); err != nil {
				t.Fatal(err)
			}
			for _, h := range m.Members() {
				within(t, 10*time.Second, "the doctor finds nothing on "+h.Name, func() error {
					d, bad, err := diagnose(t, m, h)
					if strings.Contains(bad, "firewall") {
						t.Errorf("on %s without a firewall: %s", h.Name, bad)
					}
					if err != nil || !d.Healthy {
						return fmt.Errorf("%s, %w", bad, err)
					}
					return nil
				})
			}
			must(h1, wall.deny)
			must(h2, wall.deny)
			within(t, 10*time.Second, "the doctor finds the firewall", func() error {
				for _, h := range m.Members() {
					if _, bad, err := diagnose(t, m, h); err != nil || !strings.Contains(bad, wall.command) || !strings.Contains(bad, "7946/tcp") {
						return fmt.Errorf("on %s: %s, %w", h.Name, bad, err)
					}
				}
				return nil
			})
			must(h1, wall.allow)
			must(h2, wall.allow)
			newNetworkIn(t, m, "appnet")
			serve(t, m, h2, "web", "--network", "appnet", "--service", "web", "--publish", "8080:80", "--publish", "8080:80/udp")
			client := start(t, m, h1, []string{"--network", "appnet"}, "sleep", "infinity")
			must(h1, "setsid "+peerBinary+" serve own 9999 >/dev/null 2>&1 &") // a port of the host that nobody published
			vip := vipOf(t, m, "web")
			within(t, 15*time.Second, "everything works", func() error {
				if _, bad, err := diagnose(t, m, h1); err != nil || strings.Contains(bad, "firewall") || strings.Contains(bad, "path to") {
					return fmt.Errorf("%s, %w", bad, err)
				}
				for _, network := range []string{"tcp", "udp"} {
					for _, h := range m.Members() {
						for _, ip := range []string{h.IP, "[" + h.IP6 + "]"} {
							if name == "ufw" && ip != h.IP {
								continue // its rules for IPv6 are not loaded here
							}
							if out, err := outside.Run(ctx, peerBinary, "ask", network, ip+":8080"); err != nil {
								return fmt.Errorf("%s through %s: %q, %w", network, ip, out, err)
							}
						}
					}
				}
				_, err := endpointExec(t, h1, client, peerBinary, "ask", "tcp", vip+":80")
				_, out := endpointExec(t, h1, client, "ping", "-c1", "-W1", outside.IP)
				_, own := h1.Run(ctx, peerBinary, "ask", "tcp", "127.0.0.1:9999")
				return errors.Join(err, out, own)
			})
			if out, err := outside.Run(ctx, peerBinary, "ask", "tcp", h1.IP+":9999"); err == nil {
				t.Errorf("a port that is not published answers through the firewall: %s", out)
			}
		})
	}
}
