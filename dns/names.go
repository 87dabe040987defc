package dns

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

const (
	tasksLabel    = "tasks"
	endpointLabel = "endpoint"
	nodeLabel     = "node"
)

// canonical is a name as the zone's maps have it: lower case, no dot at its
// end. An escaped character (RFC 1035, 5.1) becomes a NUL byte: no name of ours has
// one, and the dots that remain are those between labels.
func canonical(name string) string {
	name = strings.TrimSuffix(name, ".")
	if strings.IndexByte(name, '\\') < 0 {
		return strings.ToLower(name)
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] != '\\' {
			b.WriteByte(name[i])
			continue
		}
		b.WriteByte(0)
		if i+3 < len(name) && isDigits(name[i+1:i+4]) {
			i += 3
		} else {
			i++
		}
	}
	return strings.ToLower(b.String())
}

func isDigits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// validName says whether a name of the Config can be asked for. It may have
// dots, as containers' names and hosts' names may.
func validName(name string) bool {
	if name == "" || len(name) > 180 { // 180: room for the suffixes within 253
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '_' {
			return false
		}
	}
	return strings.IndexFunc(name, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && r != '-' && r != '_' && r != '.'
	}) < 0
}

// below takes suffix off name, at a dot: ("db", true) for ("db.appnet", "appnet").
// For suffix itself it gives ("", true).
func below(name, suffix string) (string, bool) {
	if suffix == "" {
		return "", false
	}
	if name == suffix {
		return "", true
	}
	rest, ok := strings.CutSuffix(name, suffix)
	if !ok || !strings.HasSuffix(rest, ".") {
		return "", false
	}
	return rest[:len(rest)-1], true
}

// withoutService takes labels such as _80 and _tcp off the front.
func withoutService(name string) string {
	for strings.HasPrefix(name, "_") {
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return name
		}
		name = rest
	}
	return name
}

// single says whether name is one label.
func single(name string) bool { return name != "" && !strings.ContainsAny(name, ".\x00") }

// isPublic says whether a name is a suffix of public names, such as com or dev. Of
// what is below one we only have the names that we know: a network named dev must not
// hide go.dev.
func isPublic(name string) bool {
	suffix, managed := publicsuffix.PublicSuffix(name)
	return managed && suffix == name
}

// A reverse is what a name below in-addr.arpa or ip6.arpa stands for: an address,
// or, when it has fewer labels, all addresses of a prefix.
type reverse struct {
	prefix netip.Prefix
	family string // "in-addr.arpa" or "ip6.arpa"
	step   int    // bits of a label
}

func (r reverse) isAddress() bool { return r.prefix.IsSingleIP() }

// parseReverse reads a reverse name (RFC 1035, 3.5; RFC 3596, 2.5).
func parseReverse(name string) (reverse, bool) {
	if rest, ok := below(name, "in-addr.arpa"); ok {
		labels := labelsOf(rest)
		var a [4]byte
		if len(labels) > len(a) {
			return reverse{}, false
		}
		for i, label := range labels {
			n, err := strconv.ParseUint(label, 10, 8)
			if err != nil || len(label) > 1 && label[0] == '0' {
				return reverse{}, false
			}
			a[i] = byte(n)
		}
		return reverse{netip.PrefixFrom(netip.AddrFrom4(a), 8*len(labels)), "in-addr.arpa", 8}, true
	}
	rest, ok := below(name, "ip6.arpa")
	if !ok {
		return reverse{}, false
	}
	labels := labelsOf(rest)
	if len(labels) > 32 || slices.ContainsFunc(labels, func(l string) bool { return len(l) != 1 }) {
		return reverse{}, false
	}
	digits := strings.Join(labels, "") + strings.Repeat("0", 32-len(labels))
	var a [16]byte
	if _, err := hex.Decode(a[:], []byte(digits)); err != nil {
		return reverse{}, false
	}
	return reverse{netip.PrefixFrom(netip.AddrFrom16(a), 4*len(labels)), "ip6.arpa", 4}, true
}

// labelsOf gives the labels with the last one first.
func labelsOf(name string) []string {
	if name == "" {
		return nil
	}
	labels := strings.Split(name, ".")
	slices.Reverse(labels)
	return labels
}

// apexIn is the zone cut for negative answers: the longest ancestor of name that
// lies within subnet at a label's border, or name itself.
func (r reverse) apexIn(name string, subnet netip.Prefix) string {
	keep := (subnet.Bits() + r.step - 1) / r.step
	for drop := r.prefix.Bits()/r.step - keep; drop > 0; drop-- {
		_, name, _ = strings.Cut(name, ".")
	}
	return name
}
