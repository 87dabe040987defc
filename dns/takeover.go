package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
)

// A container of Docker's has a resolver on 127.0.0.11 already: Docker listens on a port of its own
// there and translates port 53 to it. What we listen on is port 53 itself, and a table of ours takes the
// packets to and from it out of connection tracking, so that the translation never sees them. Our
// own questions to Docker's resolver carry a mark and go the old way.
//
// The table is owned by our netlink socket (NFT_TABLE_F_OWNER, Linux 5.12): when the process ends, also by
// kill -9, the kernel takes the table away and Docker's resolver answers again, at once.

const (
	takeoverTable = "meshd-dns"
	// takeoverMark is on our questions to the namespace's own resolver. The ingress' marks begin with 0x4d.
	takeoverMark = 0x6d646e73
	// beforeTracking is before raw (-300) and connection tracking (-200).
	beforeTracking = -310
	tableOwner     = 0x2 // NFT_TABLE_F_OWNER
)

// takeover is the table in one namespace, for as long as it is open.
type takeover struct{ conn *nftables.Conn }

// takeOver has port 53 of 127.0.0.11 in the namespace be that of our sockets.
func takeOver(handle *netns.Handle) (*takeover, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(handle.FD()), nftables.AsLasting(), nftables.WithSockOptions(ownTable))
	if err != nil {
		return nil, takeoverError(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: takeoverTable}
	ours := conn.AddChain(&nftables.Chain{
		Name: "untracked", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRef(beforeTracking),
	})
	add := func(chain *nftables.Chain, parts ...[]expr.Any) {
		rule := &nftables.Rule{Table: table, Chain: chain}
		for _, p := range parts {
			rule.Exprs = append(rule.Exprs, p...)
		}
		conn.AddRule(rule)
	}
	add(ours, marked, []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		add(ours, protocolIs(protocol), addressIs(destination), portIs(destination), []expr.Any{&expr.Notrack{}})
		add(ours, protocolIs(protocol), addressIs(source), portIs(source), []expr.Any{&expr.Notrack{}})
	}
	// A question with the mark that was not translated would come back to us, and go round for ever.
	loop := conn.AddChain(&nftables.Chain{
		Name: "loop", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		add(loop, marked, protocolIs(protocol), addressIs(destination), portIs(destination),
			[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}}) // 3: port unreachable (RFC 792)
	}
	if err := conn.Flush(); err != nil {
		return nil, errors.Join(takeoverError(err), conn.CloseLasting())
	}
	return &takeover{conn}, nil
}

// ownTable makes the table, owned by the connection's socket. (The library's own AddTable sends no flags.)
func ownTable(conn *netlink.Conn) error {
	flags := netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(takeoverTable + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableOwner)},
	})
	if err != nil {
		return err
	}
	newTable := netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE)
	_, err = conn.SendMessages([]netlink.Message{
		netfilterMessage(unix.NFNL_MSG_BATCH_BEGIN, netlink.Request, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
		netfilterMessage(newTable, flags, unix.AF_INET, 0, attributes),
		netfilterMessage(unix.NFNL_MSG_BATCH_END, netlink.Request, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil),
	})
	if err != nil {
		return err
	}
	_, err = conn.Receive()
	return err
}

// netfilterMessage begins with what all messages of netfilter do: struct nfgenmsg, its last field in network order.
func netfilterMessage(kind netlink.HeaderType, flags netlink.HeaderFlags, family byte, resource uint16, attributes []byte) netlink.Message {
	data := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: flags}, Data: append(data, attributes...)}
}

func takeoverError(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("names of the mesh are not known in containers, as this kernel has no nftables tables with an owner: use Linux 5.12 or later (%w)", err)
	}
	return fmt.Errorf("writing nftables table %s: %w", takeoverTable, err)
}

// close gives the address back to the namespace's own resolver. A nil takeover never had it.
func (t *takeover) close() {
	if t != nil {
		_ = t.conn.CloseLasting() // the table goes with the socket
	}
}

// Where an IPv4 packet holds an address, and a UDP or TCP packet a port (RFC 791, 768, 9293).
type side struct{ address, port uint32 }

var (
	source      = side{address: 12, port: 0}
	destination = side{address: 16, port: 2}

	marked = []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(takeoverMark)},
	}
)

func protocolIs(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}

func addressIs(s side) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: s.address, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: resolverAddr.AsSlice()},
	}
}

func portIs(s side) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: s.port, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, 53)},
	}
}

// ownResolver asks the namespace's own resolver. The handle is used only while it is open.
func ownResolver(handle *netns.Handle, log *slog.Logger) *forwarder {
	dialer := &net.Dialer{Control: func(_, _ string, conn syscall.RawConn) error {
		var failed error
		err := conn.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, takeoverMark)
		})
		return errors.Join(err, failed)
	}}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		var conn net.Conn
		err := handle.Do(func() (err error) {
			conn, err = dialer.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	return &forwarder{dial: dial, log: log, upstreams: []*upstream{{addr: netip.AddrPortFrom(resolverAddr, 53)}}}
}
