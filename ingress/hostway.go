package ingress

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/meshd/meshd/internal/link"
	"github.com/vishvananda/netlink"
)

// The marks of packets on the host. The ingress network is reached by them alone, not by its addresses: so a host whose
// own network has the same ones keeps it, and nobody passes through who was not translated.
const (
	markToReplica = returnMark | 1 // goes to a replica
	markAnswer    = returnMark | 2 // came from one
)

// ensureWay makes what sends packets marked markToReplica out of the host's interface on the ingress network, and takes
// answers in from there.
func (p *publisher) ensureWay(name string, subnets []netip.Prefix) error {
	host, err := link.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	host.Keep(p.changes)
	l, err := host.Link(name)
	if err != nil {
		return fmt.Errorf("the host's interface on the ingress network: %w", err)
	}
	errs := []error{enableForwarding(host), p.enableLoopback(host, l), host.EnsureSysctls(
		// The way back is looked up with the mark as well, so strict rp_filter accepts the answers.
		link.Sysctl{Key: "ipv4/conf/" + name + "/src_valid_mark", Value: "1"},
		// The network is to see nothing of the host's other addresses.
		link.Sysctl{Key: "ipv4/conf/" + name + "/arp_ignore", Value: "1"},
		link.Sysctl{Key: "ipv4/conf/" + name + "/arp_announce", Value: "2"},
	)}
	for _, ipv6 := range families() {
		family := familyOf(ipv6)
		w := way{host, p.changes}
		errs = append(errs, w.ensureRoute(l, family, nil), w.ensureRules(family, hostWay(ipv6, subnets)))
	}
	return errors.Join(errs...)
}

// hostWay is the routing rules that lead to the interface. Those for answers are met by the look-up of the way back to
// their sender, and not by their own way on.
func hostWay(ipv6 bool, subnets []netip.Prefix) []*netlink.Rule {
	mask := uint32(0xffffffff)
	toReplica := newRule(familyOf(ipv6), returnRoutes)
	toReplica.Mark, toReplica.Mask = markToReplica, &mask
	rules := []*netlink.Rule{toReplica}
	for _, subnet := range subnets {
		if subnet.Addr().Is6() == ipv6 {
			back := newRule(familyOf(ipv6), returnRoutes)
			back.Mark, back.Mask, back.Dst = markAnswer, &mask, link.IPNet(subnet.Masked())
			rules = append(rules, back)
		}
	}
	return rules
}

// removeWay takes the routes away. Forwarding stays, and the interface is not ours.
func (p *publisher) removeWay() error {
	host, err := link.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	host.Keep(p.changes)
	return errors.Join(disableLoopback(host), way{host, p.changes}.remove())
}

// familyOf is the number that netlink has for an address family.
func familyOf(ipv6 bool) int {
	if ipv6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}
