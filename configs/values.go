package configs

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Each parser returns an error that says what is allowed; the caller puts the source,
// the key and the value before it.

// one adapts a parser of a single value. A key that is present and empty is as if absent.
func one(parse func(c *Config, value string) error) func(*Config, []string) error {
	return func(c *Config, values []string) error { return parse(c, values[0]) }
}

func choice[T ~string](set func(*Config, T), allowed ...T) func(*Config, []string) error {
	return one(func(c *Config, value string) error {
		names := make([]string, len(allowed))
		for i, a := range allowed {
			if string(a) == value {
				set(c, a)
				return nil
			}
			names[i] = string(a)
		}
		return fmt.Errorf("use %s%s", orList(names), didYouMean(value, names))
	})
}

func path(field func(*Config) *string, directory bool) func(*Config, []string) error {
	return one(func(c *Config, value string) error {
		if !filepath.IsAbs(value) {
			return errors.New("use an absolute path")
		}
		if directory && filepath.Clean(value) == "/" {
			return errors.New("use a directory of meshd's own")
		}
		*field(c) = filepath.Clean(value)
		return nil
	})
}

func parseNodeName(c *Config, value string) error {
	if err := checkLabel(value); err != nil {
		return err
	}
	c.Node.Name = value
	return nil
}

// checkLabel says whether a name can be a DNS label (RFC 1123 section 2.1).
func checkLabel(name string) error {
	ok := name != "" && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return errors.New("use 1 to 63 lower-case letters, digits and inner hyphens")
	}
	return nil
}

func parseAdvertise(c *Config, values []string) (err error) {
	c.Node.Advertise, err = dialTargets(values)
	return err
}

func parseJoinAddresses(c *Config, values []string) (err error) {
	c.Join.Addresses, err = dialTargets(values)
	return err
}

// dialTargets checks HOST and HOST:PORT, where HOST is an address or a DNS name.
func dialTargets(values []string) ([]string, error) {
	for _, value := range values {
		if err := checkTarget(value); err != nil {
			return nil, fmt.Errorf("%q: %w", value, err)
		}
	}
	return values, nil
}

func checkTarget(value string) error {
	bare := strings.TrimSuffix(strings.TrimPrefix(value, "["), "]")
	if _, err := netip.ParseAddr(bare); err == nil {
		return nil
	}
	host := value
	if h, port, err := net.SplitHostPort(value); err == nil {
		if _, err := parsePort(port); err != nil {
			return err
		}
		host = h
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for label := range strings.SplitSeq(strings.ToLower(strings.TrimSuffix(host, ".")), ".") {
		if checkLabel(label) != nil {
			return errors.New("use ADDRESS, NAME, ADDRESS:PORT or NAME:PORT, with an IPv6 address in brackets before a port")
		}
	}
	return nil
}

func parsePort(value string) (uint16, error) {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return 0, errors.New("use a port from 1 to 65535")
	}
	return uint16(port), nil
}

func parseListenPort(c *Config, value string) (err error) {
	c.WireGuard.ListenPort, err = parsePort(value)
	return err
}

func parseJoinListen(c *Config, value string) error {
	if err := checkListen(value); err != nil {
		return err
	}
	c.Join.Listen = value
	return nil
}

func parseMetricsListen(c *Config, value string) error {
	if value == "off" || value == "false" { // YAML reads a bare off as text, and false as a boolean
		c.Metrics.Listen = ""
		return nil
	}
	if err := checkListen(value); err != nil {
		return fmt.Errorf("%w, or off", err)
	}
	c.Metrics.Listen = value
	return nil
}

// checkListen checks [ADDRESS]:PORT. A name is refused: what it stands for can change,
// and one socket listens on one address.
func checkListen(value string) error {
	host, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = parsePort(port)
	}
	if err == nil && host != "" && host != "localhost" {
		_, err = netip.ParseAddr(host)
	}
	if err != nil {
		return errors.New("use ADDRESS:PORT, or :PORT for all addresses")
	}
	return nil
}

func parsePools(c *Config, values []string) error {
	pools := make([]netip.Prefix, 0, len(values))
	v4 := false
	for _, value := range values {
		pool, err := parsePrefix(value)
		if err != nil {
			return err
		}
		for _, other := range pools {
			if pool.Overlaps(other) {
				return fmt.Errorf("%s overlaps %s: leave one out", pool, other)
			}
		}
		v4 = v4 || pool.Addr().Is4()
		pools = append(pools, pool)
	}
	if !v4 {
		return errors.New("name at least one IPv4 range, such as 10.64.0.0/10")
	}
	c.AddressPools = pools
	return nil
}

// parsePrefix wants the network's own address: 10.64.0.1/16 is more likely a slip than a wish.
func parsePrefix(value string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(value)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q: use ADDRESS/BITS, such as 10.64.0.0/10", value)
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits set after its prefix: use %s", value, prefix.Masked())
	}
	return prefix, nil
}

func parseNetworkPrefix(c *Config, value string) error {
	bits, err := strconv.Atoi(value)
	if err != nil || bits < 8 || bits > 29 {
		return errors.New("use a number from 8 to 29")
	}
	c.NetworkPrefix = bits
	return nil
}

func parseGateway(c *Config, values []string) error {
	const want = "use one IPv4 range of at least /29, and at most one IPv6 range of at least /125"
	var v4, v6 []netip.Prefix
	for _, value := range values {
		prefix, err := parsePrefix(value)
		if err != nil {
			return err
		}
		if prefix.Addr().BitLen()-prefix.Bits() < 3 {
			return fmt.Errorf("%s is too small: %s", prefix, want)
		}
		if prefix.Addr().Is4() {
			v4 = append(v4, prefix)
		} else {
			v6 = append(v6, prefix)
		}
	}
	if len(v4) != 1 || len(v6) > 1 {
		return errors.New(want)
	}
	c.Gateway.Subnets = slices.Concat(v4, v6)
	return nil
}

func parseDomain(c *Config, value string) error {
	for label := range strings.SplitSeq(value, ".") {
		if err := checkLabel(label); err != nil {
			return errors.New("use lower-case labels between single dots, such as mesh.internal")
		}
	}
	if len(value) > 190 { // leaves room for SERVICE.NETWORK. within a name's 253
		return errors.New("use at most 190 characters")
	}
	c.DNS.Domain = value
	return nil
}

func parseUpstreams(c *Config, values []string) error {
	upstreams := make([]netip.AddrPort, 0, len(values))
	for _, value := range values {
		if addr, err := netip.ParseAddr(value); err == nil {
			upstreams = append(upstreams, netip.AddrPortFrom(addr, 53))
			continue
		}
		addr, err := netip.ParseAddrPort(value)
		if err != nil || addr.Port() == 0 {
			return fmt.Errorf("%q: use ADDRESS or ADDRESS:PORT", value)
		}
		upstreams = append(upstreams, addr)
	}
	c.DNS.Upstreams = upstreams
	return nil
}

func parseLogLevel(c *Config, value string) error {
	names := []string{"debug", "info", "warn", "error"}
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	i := slices.Index(names, value)
	if i < 0 {
		return fmt.Errorf("use %s%s", orList(names), didYouMean(value, names))
	}
	c.Log.Level = levels[i]
	return nil
}
