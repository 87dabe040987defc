package link

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sysctl is one setting below /proc/sys/net. Its Key is a path with slashes, such
// as ipv6/conf/eth0/disable_ipv6: interface names may hold dots.
type Sysctl struct {
	Key   string
	Value string
}

// Sysctl reads a setting. It returns os.ErrNotExist (wrapped) where the kernel has none.
func (n *Namespace) Sysctl(key string) (string, error) {
	var value string
	err := n.handle.Do(func() error {
		var err error
		value, err = readSysctl(key)
		return err
	})
	return value, err
}

// EnsureSysctls writes the settings that differ, in the order given. A setting
// that this kernel does not have (IPv6 compiled out, no bridge netfilter) is
// left out: nothing it could govern is there.
func (n *Namespace) EnsureSysctls(settings ...Sysctl) error {
	if len(settings) == 0 {
		return nil
	}
	return n.handle.Do(func() error {
		var errs []error
		for _, s := range settings {
			written, err := ensureSysctl(s)
			if written {
				n.changes.Note("sysctl -w net/%s=%s", s.Key, s.Value)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// HasIPv6 says whether the kernel has IPv6 at all.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func ensureSysctl(s Sysctl) (written bool, err error) {
	value, err := readSysctl(s.Key)
	if errors.Is(err, os.ErrNotExist) || err == nil && value == s.Value {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(sysctlPath(s.Key), []byte(s.Value), 0); err != nil {
		return false, fmt.Errorf("setting sysctl net/%s to %s: %w", s.Key, s.Value, classify(err))
	}
	return true, nil
}

func readSysctl(key string) (string, error) {
	data, err := os.ReadFile(sysctlPath(key))
	if err != nil {
		return "", fmt.Errorf("reading sysctl net/%s: %w", key, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// The kernel shows, below this path, the namespace of the thread that opens it.
func sysctlPath(key string) string { return filepath.Join("/proc/sys/net", key) }
