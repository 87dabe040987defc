package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/netns"
	"github.com/meshd/meshd/internal/portuse"
)

// PortTakenError says that WireGuard's UDP port belongs to somebody else.
type PortTakenError struct {
	Port   int
	Holder string // such as "process 812 (named)"; empty if it was not found
}

func (e *PortTakenError) Error() string {
	holder := e.Holder
	if holder == "" {
		holder = "somebody else (a WireGuard device of the kernel has no process to show)"
	}
	return fmt.Sprintf("UDP port %d is taken by %s: free it, or set wireguard.listen_port to another port", e.Port, holder)
}

// checkPort returns a PortTakenError if WireGuard could not listen on the port in the
// namespace at path.
func checkPort(path string, port int) error {
	return netns.Do(path, func() error {
		for _, network := range []string{"udp4", "udp6"} {
			conn, err := net.ListenUDP(network, &net.UDPAddr{Port: port})
			if err == nil {
				_ = conn.Close()
				continue
			}
			if errors.Is(err, unix.EADDRINUSE) {
				return &PortTakenError{Port: port, Holder: portHolder(port)}
			}
			if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
				continue // a host without this family
			}
			return fmt.Errorf("trying UDP port %d: %w", port, err)
		}
		return nil
	})
}

// portHolder names who has the UDP port in the calling thread's namespace.
func portHolder(port int) string {
	holder, found := portuse.Find("udp", netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)))
	if !found {
		return ""
	}
	return holder.String()
}
