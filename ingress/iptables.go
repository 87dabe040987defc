package ingress

import (
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/meshd/meshd/internal/journal"
)

// errNoIPTables is returned where a host has no iptables program.
var errNoIPTables = errors.New("iptables is needed to publish ports and is not installed; install it (Debian: apt install iptables)")

const filterTable = "filter" // the only one that we write to

// hostRules is the host's iptables of one address family.
type hostRules struct {
	log     *slog.Logger
	changes *journal.Journal
	ipt     *iptables.IPTables
	// Where iptables is a face of nftables, the ruleset's generation tells that nobody has changed
	// anything since it was last seen to be right, which saves running a dozen programs.
	nftables   bool
	right      []string // nil: unknown
	generation uint32
}

// hostRules returns the iptables of one family, opened once.
func (p *publisher) hostRules(ipv6 bool) (*hostRules, error) {
	if rules := p.rules[index(ipv6)]; rules != nil {
		return rules, nil
	}
	protocol := iptables.ProtocolIPv4
	if ipv6 {
		protocol = iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(protocol), iptables.Timeout(5))
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errNoIPTables
	}
	if err != nil {
		return nil, fmt.Errorf("opening iptables: %w", err)
	}
	p.rules[index(ipv6)] = &hostRules{log: p.log.With("table", filterTable), changes: p.changes, ipt: ipt, nftables: usesNFTables(ipv6)}
	return p.rules[index(ipv6)], nil
}

// usesNFTables says whether the iptables program keeps its rules in nftables; if in doubt not.
func usesNFTables(ipv6 bool) bool {
	program := "iptables"
	if ipv6 {
		program = "ip6tables"
	}
	version, err := exec.Command(program, "--version").Output()
	return err == nil && strings.Contains(string(version), "(nf_tables)")
}

// hostGeneration is the generation of the host's ruleset, 0 if it is not known.
func (h *hostRules) hostGeneration() uint32 {
	if !h.nftables {
		return 0
	}
	k, err := dialKernel(0, translateTable) // the namespace of the process
	if err != nil {
		return 0
	}
	defer k.close()
	generation, err := k.generation()
	if err != nil {
		return 0
	}
	return generation
}

// apply makes our chain hold the wanted rules, and the jumps lead there; with none, it removes all. It is spared
// where nothing can have changed.
func (h *hostRules) apply(want []string) error {
	before := h.hostGeneration()
	if before != 0 && before == h.generation && h.right != nil && slices.Equal(h.right, want) {
		return nil
	}
	h.right = nil
	changed, err := h.reconcile(want)
	if err == nil && !changed && h.hostGeneration() == before {
		h.right, h.generation = append([]string{}, want...), before
	}
	return err
}

// reconcile says whether it changed anything. New rules come before old ones go.
func (h *hostRules) reconcile(want []string) (changed bool, err error) {
	chains, err := h.ipt.ListChains(filterTable)
	if err != nil {
		return false, fmt.Errorf("listing iptables chains of %s: %w", filterTable, err)
	}
	needed := len(want) > 0
	if !slices.Contains(chains, chainIngress) {
		if !needed {
			return false, nil // nor can a jump to it be there
		}
		h.log.Info("iptables", "change", "new chain "+chainIngress)
		h.changes.Note("iptables -t filter -N %s", chainIngress)
		if err := h.ipt.NewChain(filterTable, chainIngress); err != nil {
			return false, fmt.Errorf("creating iptables chain %s: %w", chainIngress, err)
		}
		changed = true
	}
	filled, err := h.fill(chainIngress, want)
	changed = changed || filled
	if err != nil {
		return changed, err
	}
	for _, from := range []string{chainForward, chainDocker} {
		if !slices.Contains(chains, from) {
			continue
		}
		jumps, err := h.jump(from, needed)
		changed = changed || jumps
		if err != nil {
			return changed, err
		}
	}
	if needed {
		return changed, nil
	}
	if err := h.ipt.ClearAndDeleteChain(filterTable, chainIngress); err != nil {
		return changed, fmt.Errorf("deleting iptables chain %s: %w", chainIngress, err)
	}
	return true, nil
}

// list returns the rules of a chain without their "-A CHAIN ".
func (h *hostRules) list(chain string) ([]string, error) {
	lines, err := h.ipt.List(filterTable, chain)
	if err != nil {
		return nil, fmt.Errorf("listing iptables chain %s: %w", chain, err)
	}
	var rules []string
	for _, line := range lines {
		if rule, ok := strings.CutPrefix(line, "-A "+chain+" "); ok {
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// fill makes the rules of our own chain those wanted. Their order means nothing.
func (h *hostRules) fill(chain string, want []string) (bool, error) {
	have, err := h.list(chain)
	if err != nil {
		return false, err
	}
	missing := slices.DeleteFunc(slices.Clone(want), func(r string) bool { return slices.Contains(have, r) })
	var extra []int // numbers, from 1
	for i, r := range have {
		if !slices.Contains(want, r) || slices.Contains(have[:i], r) {
			extra = append(extra, i+1)
		}
	}
	if len(missing) == len(extra) && h.allThere(chain, missing) {
		return false, nil // this iptables prints them in other words
	}
	for _, r := range missing {
		h.log.Debug("iptables", "change", "-A "+chain+" "+r)
		h.changes.Note("iptables -t filter -A %s %s", chain, r)
		if err := h.ipt.Append(filterTable, chain, strings.Fields(r)...); err != nil {
			return true, fmt.Errorf("adding iptables rule %q to %s: %w", r, chain, err)
		}
	}
	for _, n := range slices.Backward(extra) { // from the end, so that the numbers stay right
		h.log.Debug("iptables", "change", "-D "+chain+" "+have[n-1])
		h.changes.Note("iptables -t filter -D %s %s", chain, have[n-1])
		if err := h.ipt.DeleteById(filterTable, chain, n); err != nil {
			return true, fmt.Errorf("deleting iptables rule %q from %s: %w", have[n-1], chain, err)
		}
	}
	return len(missing)+len(extra) > 0, nil
}

func (h *hostRules) allThere(chain string, rules []string) bool {
	return !slices.ContainsFunc(rules, func(r string) bool {
		there, err := h.ipt.Exists(filterTable, chain, strings.Fields(r)...)
		return err != nil || !there
	})
}

// jump makes sure that a chain of somebody else's has exactly the jumps to ours that it needs: FORWARD one if ours is
// needed at all, Docker's one if nothing passes otherwise.
func (h *hostRules) jump(from string, needed bool) (bool, error) {
	have, err := h.list(from)
	if err != nil {
		return false, err
	}
	if needed && from == chainDocker {
		if needed, err = h.dockerDropsUs(have); err != nil {
			return false, err
		}
	}
	var wanted []string
	if needed {
		wanted = []string{jumpToIngress}
	}
	changed := false
	for _, spec := range wanted {
		if slices.Contains(have, spec) {
			continue
		}
		h.log.Info("iptables", "change", "-I "+from+" "+spec)
		h.changes.Note("iptables -t filter -I %s %s", from, spec)
		if err := h.ipt.Insert(filterTable, from, 1, strings.Fields(spec)...); err != nil {
			return changed, fmt.Errorf("adding iptables rule %q to %s: %w", spec, from, err)
		}
		changed = true
	}
	for i, spec := range have {
		if !isJump(spec, chainIngress) || slices.Contains(wanted, spec) && !slices.Contains(have[:i], spec) {
			continue
		}
		h.log.Info("iptables", "change", "-D "+from+" "+spec)
		h.changes.Note("iptables -t filter -D %s %s", from, spec)
		if err := h.ipt.Delete(filterTable, from, strings.Fields(spec)...); err != nil {
			return changed, fmt.Errorf("deleting iptables rule %q from %s: %w", spec, from, err)
		}
		changed = true
	}
	return changed, nil
}

func isJump(spec, chain string) bool { return strings.HasSuffix(spec, "-j "+chain) }

// dockerDropsUs says whether DOCKER-USER, whose rules are given, may drop packets of published ports
// before our own chain in FORWARD has seen them.
func (h *hostRules) dockerDropsUs(rules []string) (bool, error) {
	refuses := slices.ContainsFunc(rules, func(r string) bool {
		return strings.Contains(r, "-j DROP") || strings.Contains(r, "-j REJECT")
	})
	if !refuses {
		return false, nil
	}
	forward, err := h.list(chainForward)
	if err != nil {
		return false, err
	}
	docker := slices.IndexFunc(forward, func(r string) bool { return isJump(r, chainDocker) })
	ours := slices.IndexFunc(forward, func(r string) bool { return isJump(r, chainIngress) })
	return docker >= 0 && docker < ours, nil
}
