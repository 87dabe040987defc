package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/meshd/meshd/internal/link"
)

// place is where an address is now: at a MAC, on the network of a bridge.
type place struct {
	bridge int // interface number
	ip     netip.Addr
	mac    mac
}

// announce tells this host's endpoints where addresses are now. An address that was another endpoint's before
// would stay in their own neighbour tables with its old MAC: seven seconds after it is used again, as long as Linux
// takes to find out. It is a gratuitous ARP, or an unsolicited neighbour advertisement, sent by the bridge; the VXLAN port holds
// both back, and every host tells its own. What cannot be sent is found out in seven seconds, so the error says only that.
func announce(mesh *link.Namespace, places []place) error {
	if len(places) == 0 {
		return nil
	}
	socket := -1
	err := mesh.Handle().Do(func() (err error) {
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening a packet socket to announce addresses: %w", err)
	}
	defer func() { _ = unix.Close(socket) }() // all is sent
	var errs []error
	for _, p := range places {
		frame, err := p.frame()
		if err == nil {
			err = unix.Sendto(socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.bridge})
		}
		if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENXIO) { // the network goes
			errs = append(errs, fmt.Errorf("announcing that %s is at %s: %w", p.ip, p.mac, err))
		}
	}
	return errors.Join(errs...)
}

// frame is the announcement, as it goes out.
func (p place) frame() ([]byte, error) {
	if p.ip.Is4() {
		return p.arp(), nil
	}
	return p.advertisement()
}

func ethernet(to, from mac, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append([]byte{}, to[:]...), from[:]...), protocol)
}

// arp is a gratuitous ARP request (RFC 5227, section 3): it asks for the sender's own address.
func (p place) arp() []byte {
	frame := ethernet(mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, p.mac, unix.ETH_P_ARP)
	frame = append(frame,
		0, 1, // hardware: Ethernet
		0x08, 0x00, // protocol: IPv4
		6, 4, // bytes of their addresses
		0, 1) // request
	frame = append(append(frame, p.mac[:]...), p.ip.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), p.ip.AsSlice()...)
}

// advertisement is an unsolicited neighbour advertisement to all nodes (RFC 4861, section 7.2.6), that overrides
// what they know.
func (p place) advertisement() ([]byte, error) {
	const (
		override   = 0x20
		targetLink = 2 // the option: target link-layer address, in units of 8 bytes
		hopLimit   = 255
	)
	all := netip.MustParseAddr("ff02::1")
	body := append([]byte{override, 0, 0, 0}, p.ip.AsSlice()...)
	body = append(append(body, targetLink, 1), p.mac[:]...)
	message := icmp.Message{Type: ipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{Data: body}}
	payload, err := message.Marshal(icmp.IPv6PseudoHeader(p.ip.AsSlice(), all.AsSlice()))
	if err != nil {
		return nil, err
	}
	frame := ethernet(mac{0x33, 0x33, 0, 0, 0, 1}, p.mac, unix.ETH_P_IPV6)
	frame = append(frame, 0x60, 0, 0, 0) // version 6
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(payload)))
	frame = append(frame, unix.IPPROTO_ICMPV6, hopLimit)
	frame = append(append(frame, p.ip.AsSlice()...), all.AsSlice()...)
	return append(frame, payload...), nil
}
