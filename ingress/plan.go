package ingress

import (
	"fmt"
	"slices"
)

// An op is one change to our table. Its text is nft(8)'s.
type op struct {
	table tableID
	verb  verb
	set   *set
	chain *chain
	key   string
}

type verb int

const (
	deleteTable verb = iota
	addTable
	addSet
	addChain // with its rules
	flushChain
	addRules
	deleteElement
	addElement
	deleteChain
)

func (o op) String() string {
	switch o.verb {
	case deleteTable:
		return "delete table " + o.table.String()
	case addTable:
		return "add table " + o.table.String()
	case addSet:
		return fmt.Sprintf("add %s %s %s { type %s; }", o.set.word(), o.table, o.set.name, o.set.typeText())
	case addChain:
		return fmt.Sprintf("add chain %s %s", o.table, o.chain.name)
	case flushChain:
		return fmt.Sprintf("flush chain %s %s", o.table, o.chain.name)
	case addRules:
		return fmt.Sprintf("add rule %s %s (%d rules)", o.table, o.chain.name, len(o.chain.rules))
	case deleteElement:
		return fmt.Sprintf("delete element %s %s { %s }", o.table, o.set.name, o.set.element(o.key))
	case addElement:
		return fmt.Sprintf("add element %s %s { %s }", o.table, o.set.name, o.set.element(o.key))
	case deleteChain:
		return fmt.Sprintf("delete chain %s %s", o.table, o.chain.name)
	}
	return "?"
}

// plan returns the changes that make have into want; have is nil if there is no
// table. They are meant for one transaction, so no packet sees a part of them.
func plan(want table, have *table) []op {
	ops := planTable(want, have)
	for i := range ops {
		ops[i].table = want.id
	}
	return ops
}

func planTable(want table, have *table) []op {
	if have == nil {
		return planNew(want)
	}
	if !sameFrame(want, *have) {
		return append([]op{{verb: deleteTable}}, planNew(want)...)
	}
	ops := planChains(want, *have)
	for i := range want.sets {
		ops = append(ops, planElements(&want.sets[i], have.set(want.sets[i].name))...)
	}
	for i := range have.chains { // after the elements that lead there
		if want.chain(have.chains[i].name) == nil {
			ops = append(ops, op{verb: deleteChain, chain: &have.chains[i]})
		}
	}
	return ops
}

func planNew(want table) []op {
	ops := []op{{verb: addTable}}
	for i := range want.sets {
		ops = append(ops, op{verb: addSet, set: &want.sets[i]})
	}
	// Chains are complete before anything leads to them.
	for i := range want.chains {
		ops = append(ops, op{verb: addChain, chain: &want.chains[i]}, op{verb: addRules, chain: &want.chains[i]})
	}
	for i := range want.sets {
		ops = append(ops, planElements(&want.sets[i], nil)...)
	}
	return ops
}

// sameFrame says whether two tables have the same sets and the same chains with hooks;
// their rules may differ. A hook's device is not compared: the library does not tell it,
// and the kernel takes a chain away together with its device.
func sameFrame(want, have table) bool {
	hooked := func(t table) []string {
		var out []string
		for _, c := range t.chains {
			if c.hook != nil {
				out = append(out, fmt.Sprint(c.name, " ", c.hook.kind, c.hook.number, c.hook.priority))
			}
		}
		slices.Sort(out)
		return out
	}
	if len(want.sets) != len(have.sets) || !slices.Equal(hooked(want), hooked(have)) {
		return false
	}
	for _, s := range want.sets {
		if have.set(s.name) == nil {
			return false
		}
	}
	return true
}

func planChains(want, have table) []op {
	var ops []op
	for i := range want.chains {
		c := &want.chains[i]
		found := have.chain(c.name)
		sameText := func(a, b rule) bool { return a.text == b.text }
		switch {
		case found == nil:
			ops = append(ops, op{verb: addChain, chain: c}, op{verb: addRules, chain: c})
		case !slices.EqualFunc(c.rules, found.rules, sameText):
			ops = append(ops, op{verb: flushChain, chain: c}, op{verb: addRules, chain: c})
		}
	}
	return ops
}

// planElements compares the elements of one set; have is nil if the set is new.
func planElements(want, have *set) []op {
	var remove, add []op
	if have != nil {
		for _, key := range have.sortedKeys() {
			if value, ok := want.elements[key]; !ok || value != have.elements[key] {
				remove = append(remove, op{verb: deleteElement, set: have, key: key})
			}
		}
	}
	for _, key := range want.sortedKeys() {
		if have != nil {
			if value, ok := have.elements[key]; ok && value == want.elements[key] {
				continue
			}
		}
		add = append(add, op{verb: addElement, set: want, key: key})
	}
	return append(remove, add...)
}
