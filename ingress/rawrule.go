package ingress

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A rawExpr is an expression that the library cannot put into words: it has no direction for a
// connection's zone, and no flags for a payload without a checksum of its own. Rules with one are
// encoded here, and added in a transaction of their own after the library's.
type rawExpr struct {
	expr.Any // nil: it only makes this type fit into rules
	name     string
	attrs    []netlink.Attribute
}

func number(kind uint16, value uint32) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: binary.BigEndian.AppendUint32(nil, value)}
}

func (r rule) raw() bool {
	return slices.ContainsFunc(r.exprs, func(e expr.Any) bool { _, ok := e.(rawExpr); return ok })
}

// encodeRule makes the message that appends a rule to a chain.
func (k *kernel) encodeRule(chain string, r rule) (netlink.Message, error) {
	var list []netlink.Attribute
	for _, e := range r.exprs {
		data, err := encodeExpr(byte(k.table.Family), e)
		if err != nil {
			return netlink.Message{}, err
		}
		list = append(list, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data})
	}
	exprs, err := netlink.MarshalAttributes(list)
	if err != nil {
		return netlink.Message{}, err
	}
	data, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(k.table.Name + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte(chain + "\x00")},
		{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: exprs},
		{Type: unix.NFTA_RULE_USERDATA, Data: userdata.AppendString(nil, userdata.TypeComment, r.text)},
	})
	return netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE,
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Append,
		},
		Data: append([]byte{byte(k.table.Family), unix.NFNETLINK_V0, 0, 0}, data...),
	}, err
}

func encodeExpr(family byte, e expr.Any) ([]byte, error) {
	raw, ok := e.(rawExpr)
	if !ok {
		return expr.Marshal(family, e)
	}
	data, err := netlink.MarshalAttributes(raw.attrs)
	if err != nil {
		return nil, err
	}
	return netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_EXPR_NAME, Data: []byte(raw.name + "\x00")},
		{Type: unix.NLA_F_NESTED | unix.NFTA_EXPR_DATA, Data: data},
	})
}

// commitRaw adds the rules that commit has put aside, all or none.
func (k *kernel) commitRaw() error {
	if len(k.rawRules) == 0 {
		return nil
	}
	mark := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	messages := append([]netlink.Message{mark(unix.NFNL_MSG_BATCH_BEGIN)}, k.rawRules...)
	if _, err := k.raw.SendMessages(append(messages, mark(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	for range k.rawRules {
		if _, err := k.raw.Receive(); err != nil {
			return fmt.Errorf("adding rules: %w", err)
		}
	}
	k.rawRules = nil
	return nil
}

// readRules returns the rules of our table by chain. The library would decode their expressions,
// and fails at those that it cannot encode either.
func (k *kernel) readRules() (map[string][]rule, error) {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(k.table.Name + "\x00")}})
	if err != nil {
		return nil, err
	}
	replies, err := k.raw.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(k.table.Family), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, fmt.Errorf("listing rules of nftables table %s: %w", k.table.Name, err)
	}
	rules := map[string][]rule{}
	for _, reply := range replies {
		if len(reply.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(reply.Data[4:])
		if err != nil {
			return nil, fmt.Errorf("reading rules of nftables table %s: %w", k.table.Name, err)
		}
		table, chain, text := "", "", ""
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			case unix.NFTA_RULE_USERDATA:
				text, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
			}
		}
		if table == k.table.Name { // older kernels list all tables
			rules[chain] = append(rules[chain], rule{text: text})
		}
	}
	return rules, nil
}
