package ingress

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// A flow is what conntrack remembers of a connection, or of datagrams to and fro.
type flow struct {
	family   byte // AF_INET or AF_INET6
	protocol uint8
	tcpFlow                 // as its client has it
	replica  netip.AddrPort // who answers,
	back     netip.AddrPort // and to whom
	original []byte         // the client's tuple as the kernel has it
	zone     []byte         // of original, if it is in one
	id       []byte         // the kernel's for this very entry: its tuple may be another connection's by now
	over     bool           // a connection that is closed, or that its replica has closed
}

type flowFilter func(flow) bool

// either is what one of the filters takes.
func either(filters ...flowFilter) flowFilter {
	return func(f flow) bool {
		return slices.ContainsFunc(filters, func(filter flowFilter) bool { return filter(f) })
	}
}

// forget deletes conntrack's entries for which stale returns true. What comes next of a datagram flow
// is translated anew; a connection's client in the namespace is reset. It returns the connections that are
// not over and whose client is not in the namespace.
//
// The kernel keeps the flows of all namespaces in one table and goes through the whole of it, which takes some
// milliseconds: so it is asked once for both address families, and not at all where there are no flows.
func forget(ns *netns.Handle, stale flowFilter) (elsewhere []tcpFlow, err error) {
	err = inNamespace(ns, func() error {
		if !hasFlows() {
			return nil
		}
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		sockets, err := openResetter()
		if err != nil {
			return err
		}
		defer sockets.close()
		flows, err := listFlows(conn)
		if err != nil {
			return err
		}
		var failed []error
		for _, f := range flows {
			if !stale(f) {
				continue
			}
			if f.protocol == unix.IPPROTO_TCP && !f.over {
				// The reset goes to the replica too, if it still is there: so before its translation is forgotten.
				found, err := sockets.reset(f.tcpFlow)
				failed = append(failed, err)
				if !found {
					elsewhere = append(elsewhere, f.tcpFlow)
				}
			}
			failed = append(failed, deleteFlow(conn, f))
		}
		return errors.Join(failed...)
	})
	if err != nil {
		err = fmt.Errorf("deleting stale conntrack entries: %w", err)
	}
	return elsewhere, err
}

// hasFlows says whether conntrack knows any flow of the calling thread's namespace; if in doubt it does.
func hasFlows() bool {
	count, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	return err != nil || strings.TrimSpace(string(count)) != "0"
}

// inNamespace runs fn in ns, or right here if ns is nil: the namespace of the process.
func inNamespace(ns *netns.Handle, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return ns.Do(fn)
}

// conntrackMessage is a message of ctnetlink (linux/netfilter/nfnetlink_conntrack.h).
func conntrackMessage(kind uint16, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// listFlows returns the namespace's flows of the protocols that are translated.
func listFlows(conn *netlink.Conn) ([]flow, error) {
	replies, err := conn.Execute(conntrackMessage(nl.IPCTNL_MSG_CT_GET, netlink.Dump, unix.AF_UNSPEC, nil))
	if err != nil {
		return nil, fmt.Errorf("listing flows: %w", err)
	}
	flows := make([]flow, 0, len(replies))
	for _, reply := range replies {
		f, err := parseFlow(reply.Data)
		if err != nil {
			return nil, fmt.Errorf("reading flows: %w", err)
		}
		switch f.protocol {
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
			flows = append(flows, f)
		}
	}
	return flows, nil
}

func deleteFlow(conn *netlink.Conn, f flow) error {
	attrs := []netlink.Attribute{{Type: unix.NLA_F_NESTED | nl.CTA_TUPLE_ORIG, Data: f.original}}
	if f.zone != nil {
		attrs = append(attrs, netlink.Attribute{Type: nl.CTA_ZONE, Data: f.zone})
	}
	if f.id != nil {
		attrs = append(attrs, netlink.Attribute{Type: nl.CTA_ID, Data: f.id})
	}
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return err
	}
	_, err = conn.Execute(conntrackMessage(nl.IPCTNL_MSG_CT_DELETE, netlink.Acknowledge, f.family, data))
	if errors.Is(err, unix.ENOENT) {
		return nil // it has just ended
	}
	return err
}

func parseFlow(message []byte) (flow, error) {
	if len(message) < 4 {
		return flow{}, errors.New("a message is too short")
	}
	f := flow{family: message[0]}
	attrs, err := netlink.NewAttributeDecoder(message[4:])
	if err != nil {
		return f, err
	}
	for attrs.Next() {
		switch attrs.Type() {
		case nl.CTA_TUPLE_ORIG:
			f.original = attrs.Bytes()
			f.client, f.server, f.protocol, err = parseTuple(f.original)
		case nl.CTA_TUPLE_REPLY:
			f.replica, f.back, _, err = parseTuple(attrs.Bytes())
		case nl.CTA_ZONE:
			f.zone = attrs.Bytes()
		case nl.CTA_ID:
			f.id = attrs.Bytes()
		case nl.CTA_PROTOINFO:
			f.over, err = parseOver(attrs.Bytes())
		}
		if err != nil {
			return f, err
		}
	}
	return f, attrs.Err()
}

// parseOver says whether a connection needs no reset. Of one that is closed conntrack keeps an entry for two minutes, and its
// client may use the same port again by now. Of one that its replica has closed first, the client has been told.
func parseOver(data []byte) (over bool, err error) {
	const (
		lastAck, timeWait, closed = 6, 7, 8 // enum tcp_conntrack
		closedFirst               = 0x04    // IP_CT_TCP_FLAG_CLOSE_INIT
	)
	info, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return false, err
	}
	for info.Next() {
		if info.Type() != nl.CTA_PROTOINFO_TCP {
			continue
		}
		info.Nested(func(tcp *netlink.AttributeDecoder) error {
			for tcp.Next() {
				switch value := tcp.Bytes(); {
				case len(value) == 0:
				case tcp.Type() == nl.CTA_PROTOINFO_TCP_STATE:
					over = over || value[0] == lastAck || value[0] == timeWait || value[0] == closed
				case tcp.Type() == nl.CTA_PROTOINFO_TCP_FLAGS_REPLY: // struct nf_ct_tcp_flags
					over = over || value[0]&closedFirst != 0
				}
			}
			return nil
		})
	}
	return over, info.Err()
}

// parseTuple reads one direction of a flow. What has no ports has the port 0.
func parseTuple(data []byte) (from, to netip.AddrPort, protocol uint8, err error) {
	tuple, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return from, to, 0, err
	}
	var addrs [2]netip.Addr
	var ports [2]uint16
	for tuple.Next() {
		if tuple.Type() != nl.CTA_TUPLE_IP && tuple.Type() != nl.CTA_TUPLE_PROTO {
			continue // the zone of this direction alone: a number, and a part of f.original
		}
		tuple.Nested(func(part *netlink.AttributeDecoder) error {
			for part.Next() {
				switch value := part.Bytes(); {
				case tuple.Type() == nl.CTA_TUPLE_IP && (part.Type() == nl.CTA_IP_V4_SRC || part.Type() == nl.CTA_IP_V6_SRC):
					addrs[0], _ = netip.AddrFromSlice(value)
				case tuple.Type() == nl.CTA_TUPLE_IP && (part.Type() == nl.CTA_IP_V4_DST || part.Type() == nl.CTA_IP_V6_DST):
					addrs[1], _ = netip.AddrFromSlice(value)
				case tuple.Type() == nl.CTA_TUPLE_PROTO && part.Type() == nl.CTA_PROTO_NUM && len(value) == 1:
					protocol = value[0]
				case tuple.Type() == nl.CTA_TUPLE_PROTO && part.Type() == nl.CTA_PROTO_SRC_PORT && len(value) == 2:
					ports[0] = uint16(value[0])<<8 | uint16(value[1])
				case tuple.Type() == nl.CTA_TUPLE_PROTO && part.Type() == nl.CTA_PROTO_DST_PORT && len(value) == 2:
					ports[1] = uint16(value[0])<<8 | uint16(value[1])
				}
			}
			return nil
		})
	}
	return netip.AddrPortFrom(addrs[0], ports[0]), netip.AddrPortFrom(addrs[1], ports[1]), protocol, tuple.Err()
}

// stale returns a filter for flows of the balancer's entries that go to something that is none of
// the entry's targets and is not being drained: to a replica that left, or, from before the entry was there, nowhere.
func (b *balancer) stale() flowFilter {
	living := make(map[string][]string, len(b.entries))
	for _, e := range b.entries {
		living[e.key] = slices.Concat(e.targets, e.draining)
	}
	return func(f flow) bool {
		if f.server.Addr().Is6() != b.ipv6 {
			return false // a port is the same in both families
		}
		current, ours := living[flowBytes(b.key, f.protocol, f.server)]
		return ours && !slices.Contains(current, flowBytes(b.target, f.protocol, f.replica))
	}
}

// flowBytes puts the values of a flow together as the fields ask.
func flowBytes(fields []field, protocol uint8, at netip.AddrPort) string {
	out := ""
	for _, f := range fields {
		switch f.kind.Name {
		case fieldProto.kind.Name:
			out += string([]byte{protocol, 0, 0, 0})
		case fieldPort.kind.Name:
			out += portBytes(at.Port())
		default:
			out += addrBytes(at.Addr())
		}
	}
	return out
}
