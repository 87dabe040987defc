package ingress

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/meshd/meshd/internal/link"
)

// enableForwarding makes the namespace a router. Where that is new for IPv6, interfaces that listen
// to router advertisements keep doing so: a router ignores them unless accept_ra is 2
// (Linux, Documentation/networking/ip-sysctl), and the host would lose its own default route.
func enableForwarding(n *link.Namespace) error {
	settings := []link.Sysctl{{Key: "ipv4/ip_forward", Value: "1"}}
	const forwarding6 = "ipv6/conf/all/forwarding"
	if value, err := n.Sysctl(forwarding6); err == nil && value == "0" {
		listening, err := listensToRouters(n)
		if err != nil {
			return err
		}
		settings = append(settings, listening...)
		settings = append(settings, link.Sysctl{Key: forwarding6, Value: "1"})
	}
	if err := n.EnsureSysctls(settings...); err != nil {
		return fmt.Errorf("enabling forwarding: %w", err)
	}
	return nil
}

func listensToRouters(n *link.Namespace) ([]link.Sysctl, error) {
	var names []string
	if err := n.Handle().Do(func() error {
		entries, err := os.ReadDir("/proc/sys/net/ipv6/conf")
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("listing IPv6 interfaces: %w", err)
	}
	var settings []link.Sysctl
	for _, name := range names {
		key := filepath.Join("ipv6/conf", name, "accept_ra")
		if value, err := n.Sysctl(key); err == nil && value == "1" {
			settings = append(settings, link.Sysctl{Key: key, Value: "2"})
		}
	}
	return settings, nil
}
