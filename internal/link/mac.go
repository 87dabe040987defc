package link

import (
	"crypto/rand"
	"net"
)

// RandomMAC is a random, locally administered unicast address (IEEE 802). It is never
// derived from the IP address: an address that is used again must not look like the old
// endpoint to those that remember it.
func RandomMAC() string {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails
	mac[0] = mac[0]&^0x01 | 0x02
	return mac.String()
}
