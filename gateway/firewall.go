package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/meshd/meshd/internal/journal"
)

// firewall keeps our chains. It looks with one iptables-save for each family and
// writes only what differs.
type firewall struct {
	log     *slog.Logger
	changes *journal.Journal
	v4      *iptables.IPTables // nil until it is needed
	v6      *iptables.IPTables
}

func (f *firewall) hasIPv6() bool {
	_, err := exec.LookPath("ip6tables-save")
	return err == nil
}

// lockTimeout is how long iptables waits for its lock, in seconds: `iptables -w 10`.
const lockTimeout = 10

// tool returns the program of a family.
func (f *firewall) tool(ipv6 bool) (*iptables.IPTables, error) {
	tool, protocol := &f.v4, iptables.ProtocolIPv4
	if ipv6 {
		tool, protocol = &f.v6, iptables.ProtocolIPv6
	}
	if *tool != nil {
		return *tool, nil
	}
	t, err := iptables.New(iptables.IPFamily(protocol), iptables.Timeout(lockTimeout))
	if errors.Is(err, exec.ErrNotFound) {
		return nil, ErrNoIPTables
	}
	if err != nil {
		return nil, fmt.Errorf("starting iptables: %w", err)
	}
	*tool = t
	return t, nil
}

// observe returns the rules of a family as they are.
func observe(ctx context.Context, ipv6 bool) (ruleset, error) {
	program := "iptables-save"
	if ipv6 {
		program = "ip6tables-save"
	}
	command := exec.CommandContext(ctx, program)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, ErrNoIPTables
	}
	if err != nil {
		return nil, fmt.Errorf("listing firewall rules with %s: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	return parseRuleset(string(output)), nil
}

// apply makes our chains hold what is wanted, and removes those that are not.
func (f *firewall) apply(ctx context.Context, want []chain) error {
	for _, ipv6 := range []bool{false, true} {
		if ipv6 && !f.hasIPv6() {
			continue
		}
		have, err := observe(ctx, ipv6)
		if err != nil {
			return err
		}
		for _, c := range want {
			if c.ipv6 != ipv6 {
				continue
			}
			if err := f.ensure(have, c); err != nil {
				return fmt.Errorf("firewall chain %s of table %s: %w", c.name, c.table, err)
			}
		}
		if err := f.sweep(have, ipv6, want); err != nil {
			return err
		}
	}
	return nil
}

// ensure writes the chain first and the jumps to it last.
func (f *firewall) ensure(have ruleset, c chain) error {
	tool, err := f.tool(c.ipv6)
	if err != nil {
		return err
	}
	if !have.has(c.table, c.name) || !slices.Equal(have[c.table][c.name], c.rules) {
		f.log.Info("writing firewall chain", "table", c.table, "chain", c.name, "ipv6", c.ipv6)
		if err := tool.ClearChain(c.table, c.name); err != nil { // makes it if it is not there
			return err
		}
		f.changes.Note("iptables -t %s -F %s, and its %d rules", c.table, c.name, len(c.rules))
		for _, rule := range c.rules {
			if err := tool.Append(c.table, c.name, strings.Fields(rule)...); err != nil {
				return err
			}
		}
	}
	parents := []string{c.from}
	if c.docker && have.has(c.table, dockerUserChain) {
		parents = append(parents, dockerUserChain)
	}
	for _, parent := range parents {
		if slices.Contains(have[c.table][parent], c.jump()) {
			continue
		}
		if err := tool.Insert(c.table, parent, 1, strings.Fields(c.jump())...); err != nil {
			return err
		}
		f.changes.Note("iptables -t %s -I %s %s", c.table, parent, c.jump())
	}
	return nil
}

// ourChains is where chains of ours may be, by table.
var ourChains = []chain{
	{table: "filter", name: forwardChain},
	{table: "mangle", name: forwardChain},
	{table: "nat", name: postroutingChain},
}

// sweep removes our chains that are not wanted, and all jumps to them.
func (f *firewall) sweep(have ruleset, ipv6 bool, want []chain) error {
	var errs []error
	for _, c := range ourChains {
		wanted := slices.ContainsFunc(want, func(w chain) bool { return w.ipv6 == ipv6 && w.table == c.table && w.name == c.name })
		if wanted || !have.has(c.table, c.name) {
			continue
		}
		c.ipv6 = ipv6
		if err := f.removeChain(have, c); err != nil {
			errs = append(errs, fmt.Errorf("removing firewall chain %s of table %s: %w", c.name, c.table, err))
		}
	}
	return errors.Join(errs...)
}

func (f *firewall) removeChain(have ruleset, c chain) error {
	tool, err := f.tool(c.ipv6)
	if err != nil {
		return err
	}
	for parent, rules := range have[c.table] {
		for _, rule := range rules {
			if rule != c.jump() {
				continue
			}
			if err := tool.Delete(c.table, parent, strings.Fields(rule)...); err != nil {
				return err
			}
		}
	}
	return tool.ClearAndDeleteChain(c.table, c.name)
}

// remove removes all our chains. Where there is no iptables there are none.
func (f *firewall) remove(ctx context.Context) error {
	err := f.apply(ctx, nil)
	if errors.Is(err, ErrNoIPTables) {
		return nil
	}
	return err
}
