package ingress

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A tableID names one of the nftables tables that this package owns in a namespace. It
// touches no others.
type tableID struct {
	family nftables.TableFamily
	name   string
}

var (
	// translateTable leads connections to replicas, in clients' and in the ingress namespace.
	translateTable = tableID{nftables.TableFamilyINet, "meshd"}
	// returnTable and egressTable lead a replica's answers back the way the questions came.
	returnTable = tableID{nftables.TableFamilyINet, "meshd-return"}
	egressTable = tableID{nftables.TableFamilyNetdev, "meshd-return"}
)

func (id tableID) String() string {
	if id.family == nftables.TableFamilyNetdev {
		return "netdev " + id.name
	}
	return "inet " + id.name
}

// A table is the wanted, or the found, content of one of our nftables tables. It is
// plain data: compiling one needs neither root nor a kernel.
type table struct {
	id     tableID
	sets   []set
	chains []chain
}

// A set is an nftables set, map or verdict map. Keys and values are the bytes
// that the kernel has; of a verdict map the value is the chain to go to.
type set struct {
	name     string
	key      []field
	value    []field       // nil: a set without values
	verdict  bool          // a verdict map; value is nil
	timeout  time.Duration // not 0: rules fill the set and elements expire; they are not compared
	elements map[string]string
}

// A chain with a hook is where packets enter; one without is reached by a
// verdict map and comes and goes with the numbers of replicas in use.
type chain struct {
	name  string
	hook  *hook
	rules []rule
}

type hook struct {
	kind     nftables.ChainType
	number   uint32 // NF_INET_..., or NF_NETDEV_... where there is a device
	priority int32
	device   string
}

// A rule is compared by its text, which the kernel keeps as the rule's comment.
// A rule that was found has no exprs.
type rule struct {
	text  string
	exprs []expr.Any
}

func (t table) set(name string) *set {
	for i := range t.sets {
		if t.sets[i].name == name {
			return &t.sets[i]
		}
	}
	return nil
}

func (t table) chain(name string) *chain {
	for i := range t.chains {
		if t.chains[i].name == name {
			return &t.chains[i]
		}
	}
	return nil
}

// A field is one part of a key or value.
type field struct {
	kind   nftables.SetDatatype
	format func([]byte) string
}

var (
	fieldIPv4  = field{nftables.TypeIPAddr, formatAddr}
	fieldIPv6  = field{nftables.TypeIP6Addr, formatAddr}
	fieldProto = field{nftables.TypeInetProto, formatProto}
	fieldPort  = field{nftables.TypeInetService, func(b []byte) string { return fmt.Sprint(binary.BigEndian.Uint16(b)) }}
	fieldEther = field{nftables.TypeEtherAddr, func(b []byte) string { return net.HardwareAddr(b).String() }}
	// A zone has two bytes in the host's order; the library knows no type of its own for it.
	fieldZone = field{nftables.TypeInetService, func(b []byte) string { return fmt.Sprint(binary.NativeEndian.Uint16(b)) }}
	fieldMark = field{nftables.TypeMark, func(b []byte) string { return fmt.Sprintf("%#x", binary.NativeEndian.Uint32(b)) }}
	// A slot is a number in the host's byte order, as numgen makes it.
	fieldSlot = field{nftables.TypeMark, func(b []byte) string { return fmt.Sprint(binary.NativeEndian.Uint32(b)) }}
)

func formatAddr(b []byte) string {
	addr, _ := netip.AddrFromSlice(b)
	return addr.String()
}

func formatProto(b []byte) string {
	for name, number := range protocols {
		if number == b[0] {
			return name
		}
	}
	return fmt.Sprint(b[0])
}

// padded is the room that n bytes take in a concatenation: whole registers of four.
func padded(n uint32) int { return int(n+3) / 4 * 4 }

func dataType(fields []field) nftables.SetDatatype {
	if len(fields) == 1 {
		return fields[0].kind
	}
	kinds := make([]nftables.SetDatatype, len(fields))
	for i, f := range fields {
		kinds[i] = f.kind
	}
	return nftables.MustConcatSetType(kinds...)
}

func format(fields []field, raw string) string {
	parts := make([]string, 0, len(fields))
	for _, f := range fields {
		if len(raw) < int(f.kind.Bytes) {
			return fmt.Sprintf("%x", raw)
		}
		parts = append(parts, f.format([]byte(raw[:f.kind.Bytes])))
		raw = raw[min(len(raw), padded(f.kind.Bytes)):]
	}
	return strings.Join(parts, " . ")
}

// element prints one element as nft(8) does.
func (s *set) element(key string) string {
	text := format(s.key, key)
	switch {
	case s.verdict:
		text += " : goto " + s.elements[key]
	case s.value != nil:
		text += " : " + format(s.value, s.elements[key])
	}
	return text
}

func (s *set) sortedKeys() []string {
	keys := make([]string, 0, len(s.elements))
	for key := range s.elements {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// String prints the table as `nft list table` would, so that a person can read
// what is programmed and a test can compare it.
func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s {\n", t.id)
	for i := range t.sets {
		s := &t.sets[i]
		fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s\n", s.word(), s.name, s.typeText())
		for _, key := range s.sortedKeys() {
			fmt.Fprintf(&b, "\t\t%s\n", s.element(key))
		}
		b.WriteString("\t}\n")
	}
	for _, c := range t.chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.hook != nil {
			fmt.Fprintf(&b, "\t\t%s\n", c.hook)
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *set) word() string {
	if s.verdict || s.value != nil {
		return "map"
	}
	return "set"
}

func (s *set) typeText() string {
	switch {
	case s.verdict:
		return dataType(s.key).Name + " : verdict"
	case s.value != nil:
		return dataType(s.key).Name + " : " + dataType(s.value).Name
	}
	return dataType(s.key).Name
}

func (h hook) String() string {
	names := []string{"prerouting", "input", "forward", "output", "postrouting"}
	if h.device != "" {
		names = []string{"ingress device " + h.device, "egress device " + h.device}
	}
	return fmt.Sprintf("type %s hook %s priority %d", h.kind, names[h.number], h.priority)
}
