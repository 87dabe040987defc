package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// LookupFunc finds the addresses of a host name.
type LookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// SystemLookup asks the system's resolver.
func SystemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Advertise turns the entries of node.advertise into candidates, in their order: IP addresses
// or DNS names, each with or without a port (port where there is none). It returns what it could make of
// them also when some fail; the error then names each that failed and why.
func Advertise(ctx context.Context, entries []string, port uint16, lookup LookupFunc) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	var errs []error
	for _, entry := range entries {
		found, err := advertised(ctx, entry, port, lookup)
		if err != nil {
			errs = append(errs, fmt.Errorf("node.advertise: %w", err))
		}
		for _, ap := range found {
			if !slices.Contains(out, ap) {
				out = append(out, ap)
			}
		}
	}
	return out, errors.Join(errs...)
}

func advertised(ctx context.Context, entry string, port uint16, lookup LookupFunc) ([]netip.AddrPort, error) {
	host, port, err := SplitAdvertise(entry, port)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, ip)
	} else if addrs, err = lookup(ctx, host); err != nil {
		return nil, fmt.Errorf("looking up %q: %w", host, err)
	}
	var out []netip.AddrPort
	for _, a := range addrs {
		if a = a.Unmap(); a.IsGlobalUnicast() {
			out = append(out, netip.AddrPortFrom(a, port))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%q is no address that others can dial", entry)
	}
	return out, nil
}

// SplitAdvertise takes an entry of node.advertise apart without looking anything up, as a
// check of the configuration does: ADDRESS, NAME, ADDRESS:PORT, NAME:PORT or [IPV6]:PORT.
func SplitAdvertise(entry string, port uint16) (host string, _ uint16, _ error) {
	if ip, err := netip.ParseAddr(entry); err == nil {
		return ip.Unmap().WithZone("").String(), port, nil
	}
	host, digits, err := net.SplitHostPort(entry)
	if err != nil {
		host, digits = entry, strconv.Itoa(int(port))
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || host == "" || !plausibleHost(host) {
		return "", 0, fmt.Errorf("%q is neither an IP address nor a DNS name, with or without a port from 1 to 65535", entry)
	}
	return host, uint16(n), nil
}

// plausibleHost accepts IP addresses and what could be a DNS name.
func plausibleHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	for _, r := range host {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && r != '-' && r != '.' && r != '_' {
			return false
		}
	}
	return len(host) <= 253
}
