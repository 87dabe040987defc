package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/meshd/meshd/internal/link"
)

// settings switches forwarding on and remembers in a file what it was before.
type settings struct{ path string }

// setting is a sysctl that we changed.
type setting struct {
	Key  string `json:"key"`
	From string `json:"from"`
	To   string `json:"to"`
}

// ensure switches forwarding on for the families that cfg has subnets of.
func (s settings) ensure(host *link.Namespace, cfg Config) error {
	want, err := forwarding(host, cfg)
	if err != nil {
		return err
	}
	var changes []setting
	for _, w := range want {
		value, err := host.Sysctl(w.Key)
		if err != nil {
			return err
		}
		if value != w.Value {
			changes = append(changes, setting{Key: w.Key, From: value, To: w.Value})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	remembered, err := s.load()
	if err != nil {
		return err
	}
	for _, c := range changes {
		// What it was before our first change counts, not what somebody made of it since.
		if !slices.ContainsFunc(remembered, func(r setting) bool { return r.Key == c.Key }) {
			remembered = append(remembered, c)
		}
	}
	// First remember, then change: a crash in between must not lose what was.
	if err := s.save(remembered); err != nil {
		return err
	}
	for _, c := range changes {
		if err := host.EnsureSysctls(link.Sysctl{Key: c.Key, Value: c.To}); err != nil {
			return err
		}
	}
	return nil
}

// forwarding is the settings that forwarding needs. A host that forwards IPv6
// ignores router advertisements unless accept_ra is 2: an interface that listened to
// them goes on, or the host would lose its own route.
func forwarding(host *link.Namespace, cfg Config) ([]link.Sysctl, error) {
	var want []link.Sysctl
	if len(family(cfg.Subnets, false)) > 0 {
		want = append(want, link.Sysctl{Key: "ipv4/ip_forward", Value: "1"})
	}
	if len(family(cfg.Subnets, true)) == 0 {
		return want, nil
	}
	on := link.Sysctl{Key: "ipv6/conf/all/forwarding", Value: "1"}
	value, err := host.Sysctl(on.Key)
	if err != nil || value == on.Value {
		return want, err
	}
	links, err := host.Links()
	if err != nil {
		return nil, err
	}
	for name := range links {
		key := "ipv6/conf/" + name + "/accept_ra"
		value, err := host.Sysctl(key)
		if err == nil && value == "1" && name != "lo" && name != cfg.Bridge && !portNames.MatchString(name) {
			want = append(want, link.Sysctl{Key: key, Value: "2"})
		}
	}
	return append(want, on), nil
}

// restore undoes, last first, what ensure did, except what somebody changed since.
func (s settings) restore(host *link.Namespace) error {
	remembered, err := s.load()
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(remembered) {
		value, err := host.Sysctl(r.Key)
		if err != nil || value != r.To {
			continue // the interface has gone, or it is no longer ours to undo
		}
		if err := host.EnsureSysctls(link.Sysctl{Key: r.Key, Value: r.From}); err != nil {
			return err
		}
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the record of changed sysctls: %w", err)
	}
	return nil
}

func (s settings) load() ([]setting, error) {
	data, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of changed sysctls: %w", err)
	}
	var remembered []setting
	if err := json.Unmarshal(data, &remembered); err != nil {
		return nil, fmt.Errorf("%s, the record of changed sysctls, is damaged (%w): delete it; forwarding then stays on when meshd leaves", s.path, err)
	}
	return remembered, nil
}

// save replaces the file at once, so that a crash leaves the old or the new one.
func (s settings) save(remembered []setting) error {
	data, err := json.MarshalIndent(remembered, "", "  ")
	if err != nil {
		return fmt.Errorf("recording changed sysctls: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return fmt.Errorf("recording changed sysctls: %w", err)
	}
	fresh := s.path + ".new"
	if err := os.WriteFile(fresh, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("recording changed sysctls: %w", err)
	}
	if err := os.Rename(fresh, s.path); err != nil {
		return fmt.Errorf("recording changed sysctls: %w", err)
	}
	return nil
}
