package ingress

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	nfnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

// admitPatience is how long Admits waits for a packet to be let in. It has one link to cross, on a machine that may be
// busy; of a firewall that is open nobody should be told that it is not. A first SYN is repeated after a second.
const (
	admitPatience = 1500 * time.Millisecond
	admitRepeat   = 250 * time.Millisecond // of a datagram
)

// A Visitor is a namespace before the host's firewall, on a link that is as any other to it. So rules for single
// interfaces or senders may judge others differently. Its methods must not be called at the same time.
type Visitor struct{ path string }

const visitorLink = "meshd-try" // the link's end on the host

// The visitor's link is link-local (RFC 3927) and unique local (RFC 4193): seen on this host only.
var visitorSubnets = []netip.Prefix{netip.MustParsePrefix("169.254.213.0/30"), netip.MustParsePrefix("fd6d:6573:6864:213::/126")}

// Visit makes the namespace at path, or finds it there. It stays until EndVisit.
func Visit(path string) (*Visitor, error) {
	h, err := netns.Create(path)
	if err != nil {
		return nil, err
	}
	_ = h.Close() // it stays by its path
	v := &Visitor{path}
	if err := v.plug(); err != nil {
		return nil, fmt.Errorf("trying the firewall: %w", err)
	}
	return v, nil
}

func (v *Visitor) plug() error {
	host, err := link.Current()
	if err != nil {
		return err
	}
	defer host.Close()
	inside, err := link.Open(v.path)
	if err != nil {
		return err
	}
	defer inside.Close()
	veth := link.Veth{Outer: visitorLink, Inner: "eth0", MTU: 1500}
	var routes []link.Route
	for _, subnet := range visitorSubnets {
		near := subnet.Addr().Next()
		veth.OuterAddresses = append(veth.OuterAddresses, netip.PrefixFrom(near, subnet.Bits()))
		veth.Addresses = append(veth.Addresses, netip.PrefixFrom(near.Next(), subnet.Bits()))
		if near.Is4() || link.HasIPv6() {
			routes = append(routes, link.Route{To: netip.PrefixFrom(near, 0).Masked(), Via: near})
		}
	}
	// Without looking for somebody else who has its link-local address (RFC 4862, 5.4): the link has two ends.
	pair, err := host.EnsureVeth(inside, veth, func(netlink.Link) error {
		return errors.Join(
			host.EnsureSysctls(link.Sysctl{Key: "ipv6/conf/" + visitorLink + "/accept_dad", Value: "0"}),
			inside.EnsureSysctls(link.Sysctl{Key: "ipv6/conf/eth0/accept_dad", Value: "0"}))
	})
	if err != nil {
		return err
	}
	return inside.EnsureRoutes(pair.Inner, routes)
}

// EndVisit removes the namespace at path and its link. It is no error if they are not there.
func EndVisit(path string) error {
	errs := []error{netns.Delete(path)}
	host, err := link.Current()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer host.Close()
	switch l, err := host.Link(visitorLink); {
	case err == nil:
		if err := host.Delete(l); !errors.Is(err, link.ErrNotFound) { // it may have gone with the namespace
			errs = append(errs, err)
		}
	case !errors.Is(err, link.ErrNotFound):
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Admits says whether the host's firewall lets in what others send to one of its own addresses and ports;
// protocol is "tcp" or "udp". It tries: the visitor sends something. Something must listen on the port.
func (v *Visitor) Admits(ctx context.Context, protocol string, to netip.AddrPort) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	var conn net.Conn
	err := netns.Do(v.path, func() error {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, protocol, to.String())
		return err
	})
	if err != nil {
		if refused(err) || ctx.Err() != nil {
			return false, nil
		}
		return false, fmt.Errorf("trying port %s/%s: %w", to, protocol, err)
	}
	defer func() { _ = conn.Close() }()
	if protocol != "udp" {
		return true, nil
	}
	return admitted(ctx, conn)
}

func refused(err error) bool {
	var timeout net.Error
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// admitted sends a datagram that nobody answers. Connection tracking remembers it from the moment that
// it is let in, and not at all if it is dropped or rejected.
func admitted(ctx context.Context, conn net.Conn) (bool, error) {
	client, _ := netip.ParseAddrPort(conn.LocalAddr().String())
	server, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var sent time.Time
	for {
		if time.Since(sent) > admitRepeat {
			sent = time.Now()
			if _, err := conn.Write([]byte("meshd doctor")); errors.Is(err, unix.ECONNREFUSED) {
				return false, nil // rejected
			} else if err != nil {
				return false, fmt.Errorf("trying port %s: %w", server, err)
			}
		}
		seen, err := tracked(tcpFlow{client: client, server: server})
		if seen || err != nil {
			return seen, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return false, err
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, syscall.EAGAIN) && !isTimeout(err) {
			return false, nil // rejected
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-ticker.C:
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// tracked says whether the host's connection tracking knows a flow of datagrams. It asks for this one alone: a busy
// host has many.
func tracked(want tcpFlow) (bool, error) {
	conn, err := nfnetlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return false, fmt.Errorf("asking for a flow: %w", err)
	}
	defer func() { _ = conn.Close() }()
	family, tuple, err := encodeTuple(want, unix.IPPROTO_UDP)
	if err != nil {
		return false, err
	}
	_, err = conn.Execute(conntrackMessage(nl.IPCTNL_MSG_CT_GET, nfnetlink.Acknowledge, family, tuple))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// encodeTuple is how ctnetlink is asked for a flow.
func encodeTuple(f tcpFlow, protocol byte) (family byte, attrs []byte, err error) {
	family, from, to := byte(unix.AF_INET), uint16(nl.CTA_IP_V4_SRC), uint16(nl.CTA_IP_V4_DST)
	if f.server.Addr().Is6() {
		family, from, to = unix.AF_INET6, nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	addresses, err := nfnetlink.MarshalAttributes([]nfnetlink.Attribute{
		{Type: from, Data: f.client.Addr().AsSlice()}, {Type: to, Data: f.server.Addr().AsSlice()},
	})
	if err != nil {
		return 0, nil, err
	}
	ports, err := nfnetlink.MarshalAttributes([]nfnetlink.Attribute{
		{Type: nl.CTA_PROTO_NUM, Data: []byte{protocol}},
		{Type: nl.CTA_PROTO_SRC_PORT, Data: binary.BigEndian.AppendUint16(nil, f.client.Port())},
		{Type: nl.CTA_PROTO_DST_PORT, Data: binary.BigEndian.AppendUint16(nil, f.server.Port())},
	})
	if err != nil {
		return 0, nil, err
	}
	tuple, err := nfnetlink.MarshalAttributes([]nfnetlink.Attribute{
		{Type: unix.NLA_F_NESTED | nl.CTA_TUPLE_IP, Data: addresses}, {Type: unix.NLA_F_NESTED | nl.CTA_TUPLE_PROTO, Data: ports},
	})
	if err != nil {
		return 0, nil, err
	}
	attrs, err = nfnetlink.MarshalAttributes([]nfnetlink.Attribute{{Type: unix.NLA_F_NESTED | nl.CTA_TUPLE_ORIG, Data: tuple}})
	return family, attrs, err
}

// Try makes and removes, in the namespace at path, a table as clients have it: so the kernel has what translation needs.
func Try(path string) error {
	c := &client{translated: translated{id: translateTable}}
	defer c.forgetHandle()
	address := netip.MustParseAddr("192.0.2.1") // for documentation (RFC 5737)
	if _, err := c.apply(Client{Namespace: path, Services: []VirtualIP{{Address: address, Replicas: []netip.Addr{address}}}}); err != nil {
		return err
	}
	return c.remove()
}
