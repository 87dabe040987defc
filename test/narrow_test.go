package test

import (
	"testing"

	"github.com/meshd/meshd/test/lab"
)

// On an underlay of 1,400 bytes the smallest packets that IPv6 allows to be the largest do not
// fit with all their headers: the tunnel has to make fragments.
func TestFullSizePacketsPassOnANarrowUnderlay(t *testing.T) {
	ctx := testContext(t)
	m := newMesh(t, 2)
	for _, h := range m.Members() {
		for on, device := range map[*lab.Host]string{h: "eth0", m.Wire: "p-" + h.Name} {
			if _, err := on.Run(ctx, "ip", "link", "set", device, "mtu", "1400"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetwork(t, m, "narrow")
	server := serve(t, m, m.Host("h1"), "one", "--network", "narrow")
	for size, address := range map[string]string{"1252": server.IP, "1232": server.IP6} {
		if _, err := inside(t, m, m.Host("h2"), "narrow", "ping", "-M", "do", "-c2", "-W10", "-s", size, address); err != nil {
			t.Errorf("a packet of 1280 bytes: %v", err)
		}
	}
}
