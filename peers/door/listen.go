package door

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/meshd/meshd/internal/portuse"
)

// Listen opens the door's socket in the namespace that the process runs in. address is
// join.listen: HOST:PORT, :PORT for all addresses, or HOST for DefaultPort. If the
// port is taken the error says who has it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	target := address
	if !strings.HasPrefix(address, ":") {
		var err error
		if target, err = splitAddress(address); err != nil {
			return nil, fmt.Errorf("join.listen: %w", err)
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", target)
	if err != nil {
		return nil, fmt.Errorf("opening the join door on %s: %w", target, explainBind(err, target))
	}
	return listener, nil
}

func explainBind(err error, target string) error {
	host, portText, splitErr := net.SplitHostPort(target)
	port, parseErr := strconv.ParseUint(portText, 10, 16)
	if splitErr != nil || parseErr != nil {
		return err
	}
	addr, parseErr := netip.ParseAddr(host)
	if parseErr != nil {
		addr = netip.IPv6Unspecified() // ":7946", or a name: whoever has the port is worth naming
	}
	return portuse.Explain(err, "tcp", netip.AddrPortFrom(addr, uint16(port)), "join.listen")
}

// splitAddress makes HOST:PORT of HOST or HOST:PORT, where HOST is a DNS name or an
// address; an IPv6 address may stand alone or in brackets.
func splitAddress(address string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("%.80q is no address (%s): write HOST or HOST:PORT, such as 192.0.2.7, [2001:db8::7]:%d or db1.example.org", address, why, DefaultPort)
	}
	inner, isBracketed := strings.CutPrefix(address, "[")
	inner, isClosed := strings.CutSuffix(inner, "]")
	if addr, err := netip.ParseAddr(inner); err == nil && isBracketed == isClosed {
		return net.JoinHostPort(addr.String(), strconv.Itoa(DefaultPort)), nil
	}
	host, port := address, strconv.Itoa(DefaultPort)
	if strings.ContainsAny(address, ":[]") {
		var err error
		if host, port, err = net.SplitHostPort(address); err != nil {
			return bad("its parts do not fit")
		}
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return bad("the port is not 1 to 65535")
	}
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/@?#", r) }) {
		return bad("the host is missing or malformed")
	}
	return net.JoinHostPort(host, port), nil
}
