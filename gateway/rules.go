package gateway

import (
	"net/netip"
	"strings"
)

// Our chains. Their names are the same in all tables.
const (
	forwardChain     = "MESHD-FORWARD"
	postroutingChain = "MESHD-POSTROUTING"
	dockerUserChain  = "DOCKER-USER" // Docker's, for other people's rules; passed before FORWARD's policy
)

// chain is one of our iptables chains. Its rules are written as iptables-save
// prints them, so that they can be compared.
type chain struct {
	ipv6   bool
	table  string
	name   string
	from   string // the built-in chain that jumps to it
	docker bool   // DOCKER-USER jumps to it as well, where it exists
	rules  []string
}

// jump is the rule in another chain that leads to c.
func (c chain) jump() string { return "-j " + c.name }

// chains is the whole firewall for cfg: for each family that has a subnet, endpoints
// may open connections outward, not to each other, and nobody may open one to them.
func chains(cfg Config) []chain {
	var all []chain
	for _, ipv6 := range []bool{false, true} {
		subnets := family(cfg.Subnets, ipv6)
		if len(subnets) == 0 {
			continue
		}
		bridge := cfg.Bridge
		var masquerade []string
		for _, s := range subnets {
			masquerade = append(masquerade, "-s "+s.Masked().String()+" ! -o "+bridge+" -j MASQUERADE")
		}
		clamp := " -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
		all = append(all,
			chain{ipv6: ipv6, table: "filter", name: forwardChain, from: "FORWARD", docker: true, rules: []string{
				"-i " + bridge + " -o " + bridge + " -j DROP",
				"-i " + bridge + " -j ACCEPT",
				"-o " + bridge + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
				"-o " + bridge + " -j DROP",
			}},
			chain{ipv6: ipv6, table: "mangle", name: forwardChain, from: "FORWARD", rules: []string{
				"-i " + bridge + clamp,
				"-o " + bridge + clamp,
			}},
			chain{ipv6: ipv6, table: "nat", name: postroutingChain, from: "POSTROUTING", rules: masquerade})
	}
	return all
}

func family(subnets []netip.Prefix, ipv6 bool) []netip.Prefix {
	var some []netip.Prefix
	for _, s := range subnets {
		if s.Addr().Is6() == ipv6 {
			some = append(some, s)
		}
	}
	return some
}

// ruleset is a parsed iptables-save: the rules of each chain, by table and chain.
type ruleset map[string]map[string][]string

// parseRuleset reads the output of iptables-save. Counters and comments are left out.
func parseRuleset(output string) ruleset {
	set := make(ruleset)
	table := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			set[table] = make(map[string][]string)
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			set[table][name] = []string{}
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[3:], " ")
			set[table][name] = append(set[table][name], rule)
		}
	}
	return set
}

// has says whether the chain exists.
func (r ruleset) has(table, name string) bool {
	_, ok := r[table][name]
	return ok
}
