package ingress

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// socketBuffer holds a whole transaction, which is one message to the kernel; it is a
	// limit and takes no memory by itself. The default of some 200 kB fails with ENOBUFS or EMSGSIZE.
	socketBuffer = 64 << 20
	// elementsPerMessage keeps a list of elements (of at most 70 bytes each) within a netlink
	// attribute's 64 kB.
	elementsPerMessage = 500
)

// A kernel is nftables in one network namespace.
type kernel struct {
	conn  *nftables.Conn
	raw   *netlink.Conn // for what the library does not ask
	table *nftables.Table

	rawRules []netlink.Message // see rawExpr
}

// dialKernel opens nftables in the namespace that fd refers to, for one of our tables.
func dialKernel(fd int, id tableID) (*kernel, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(fd), nftables.AsLasting(),
		nftables.WithSockOptions(func(c *netlink.Conn) error {
			return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
		}))
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	raw, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: fd})
	if err != nil {
		_ = conn.CloseLasting()
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	return &kernel{conn: conn, raw: raw, table: &nftables.Table{Name: id.name, Family: id.family}}, nil
}

func (k *kernel) close() {
	_ = k.conn.CloseLasting()
	_ = k.raw.Close()
}

// generation is a number that goes up by one with each transaction in the namespace, whoever made it.
func (k *kernel) generation() (uint32, error) {
	replies, err := k.raw.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("asking for the ruleset's generation: %w", err)
	}
	for _, reply := range replies {
		if len(reply.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(reply.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("reading the ruleset's generation: %w", err)
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("the kernel did not tell the ruleset's generation")
}

// read returns our table as the kernel has it, nil if there is none. like tells what its
// sets are made of.
func (k *kernel) read(like table) (*table, error) {
	tables, err := k.conn.ListTablesOfFamily(k.table.Family)
	if err != nil {
		return nil, fmt.Errorf("listing nftables tables: %w", err)
	}
	found := false
	for _, t := range tables {
		found = found || t.Name == k.table.Name
	}
	if !found {
		return nil, nil
	}
	var have table
	if have.chains, err = k.readChains(); err != nil {
		return nil, err
	}
	sets, err := k.conn.GetSets(k.table)
	if err != nil {
		return nil, fmt.Errorf("listing nftables sets: %w", err)
	}
	for _, s := range sets {
		read, err := k.readSet(s, like.set(s.Name))
		if err != nil {
			return nil, err
		}
		have.sets = append(have.sets, read)
	}
	return &have, nil
}

func (k *kernel) readChains() ([]chain, error) {
	found, err := k.conn.ListChainsOfTableFamily(k.table.Family)
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	rules, err := k.readRules()
	if err != nil {
		return nil, err
	}
	var chains []chain
	for _, c := range found {
		if c.Table.Name != k.table.Name {
			continue
		}
		read := chain{name: c.Name, rules: rules[c.Name]}
		if c.Hooknum != nil && c.Priority != nil {
			read.hook = &hook{c.Type, uint32(*c.Hooknum), int32(*c.Priority), ""}
		}
		chains = append(chains, read)
	}
	return chains, nil
}

func (k *kernel) readSet(found *nftables.Set, like *set) (set, error) {
	found.Table = k.table
	read := set{name: found.Name, elements: map[string]string{}}
	if like != nil {
		read.key, read.value, read.verdict = like.key, like.value, like.verdict
	}
	if like != nil && like.timeout > 0 {
		return read, nil
	}
	elements, err := k.conn.GetSetElements(found)
	if err != nil {
		return set{}, fmt.Errorf("listing elements of nftables set %s: %w", found.Name, err)
	}
	for _, e := range elements {
		value := string(e.Val)
		if read.verdict {
			value = verdictChain(e.Val)
		}
		read.elements[string(e.Key)] = value
	}
	return read, nil
}

// verdictChain is the chain in an encoded verdict; the library leaves it encoded.
func verdictChain(data []byte) string {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return ""
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_VERDICT_CHAIN {
			return ad.String()
		}
	}
	return ""
}

// commit makes the changes in one transaction: all of them, or none. Only rules that the library
// cannot encode follow in a second one.
func (k *kernel) commit(ops []op) error {
	for i := 0; i < len(ops); {
		n := 1
		for i+n < len(ops) && n < elementsPerMessage && sameList(ops[i], ops[i+n]) {
			n++
		}
		if err := k.queue(ops[i : i+n]); err != nil {
			return fmt.Errorf("encoding %q: %w", ops[i], err)
		}
		i += n
	}
	err := k.conn.Flush()
	if err == nil {
		err = k.commitRaw()
	}
	if err != nil {
		return fmt.Errorf("changing nftables table %s (%d changes, the first: %s): %w", ops[0].table, len(ops), ops[0], err)
	}
	return nil
}

// sameList says whether two changes are elements that fit into one message.
func sameList(a, b op) bool {
	return a.set != nil && a.verb == b.verb && a.verb != addSet && a.set == b.set
}

// queue adds one change, or several to elements of one set, to the transaction.
func (k *kernel) queue(ops []op) error {
	first := ops[0]
	switch first.verb {
	case deleteTable:
		k.conn.DelTable(k.table)
	case addTable:
		k.conn.AddTable(k.table)
	case addSet:
		return k.conn.AddSet(k.librarySet(first.set), nil)
	case addChain:
		k.conn.AddChain(k.libraryChain(first.chain))
	case flushChain:
		k.conn.FlushChain(k.libraryChain(first.chain))
	case deleteChain:
		k.conn.DelChain(k.libraryChain(first.chain))
	case addRules:
		for _, r := range first.chain.rules {
			if r.raw() {
				message, err := k.encodeRule(first.chain.name, r)
				if err != nil {
					return err
				}
				k.rawRules = append(k.rawRules, message)
				continue
			}
			k.conn.AddRule(&nftables.Rule{
				Table: k.table, Chain: k.libraryChain(first.chain), Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.text),
			})
		}
	case addElement:
		return k.conn.SetAddElements(k.librarySet(first.set), libraryElements(ops, true))
	case deleteElement:
		return k.conn.SetDeleteElements(k.librarySet(first.set), libraryElements(ops, false))
	}
	return nil
}

func (k *kernel) librarySet(s *set) *nftables.Set {
	out := &nftables.Set{
		Table: k.table, Name: s.name, KeyType: dataType(s.key), IsMap: s.verdict || s.value != nil,
		Concatenation: len(s.key) > 1,
		HasTimeout:    s.timeout > 0, Dynamic: s.timeout > 0, Timeout: s.timeout,
	}
	switch {
	case s.verdict:
		out.DataType = nftables.TypeVerdict
	case s.value != nil:
		out.DataType = dataType(s.value)
	}
	return out
}

func (k *kernel) libraryChain(c *chain) *nftables.Chain {
	out := &nftables.Chain{Name: c.name, Table: k.table}
	if c.hook != nil {
		out.Type = c.hook.kind
		out.Hooknum = nftables.ChainHookRef(nftables.ChainHook(c.hook.number))
		out.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.hook.priority))
		out.Device = c.hook.device
	}
	return out
}

// libraryElements takes the values along only where elements are added: to delete one its key is enough.
func libraryElements(ops []op, values bool) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, len(ops))
	for _, o := range ops {
		e := nftables.SetElement{Key: []byte(o.key)}
		switch {
		case !values:
		case o.set.verdict:
			e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: o.set.elements[o.key]}
		case o.set.value != nil:
			e.Val = []byte(o.set.elements[o.key])
		}
		out = append(out, e)
	}
	return out
}
