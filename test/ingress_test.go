package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// seenBy asks count times and returns the addresses that each replica saw.
func seenBy(t *testing.T, from *lab.Host, network, address string, count int) (map[string]map[string]int, error) {
	t.Helper()
	out, err := from.Run(testContext(t), peerBinary, "ask", network, address, fmt.Sprint(count))
	seen := make(map[string]map[string]int)
	for line := range strings.Lines(out) {
		name, peer, _ := strings.Cut(strings.TrimSpace(line), " ")
		addr, parseErr := netip.ParseAddrPort(peer)
		if parseErr != nil {
			return nil, fmt.Errorf("answer %q: %w", line, parseErr)
		}
		if seen[name] == nil {
			seen[name] = make(map[string]int)
		}
		seen[name][addr.Addr().Unmap().String()]++
	}
	return seen, err
}

// Whichever host it asks, whichever replica answers: the replica sees the client's own address.
func TestReplicaSeesTheClient(t *testing.T) {
	newNetwork(t, shared, "real")
	newNetwork(t, shared, "hidden", "--internal") // its endpoints have no other way out
	flags := map[string][]string{
		"real":   {"--network", "real", "--service", "real", "--publish", "8090:80", "--publish", "8090:80/udp"},
		"hidden": {"--network", "hidden", "--service", "hidden", "--publish", "8091:80", "--publish", "8091:80/udp"},
	}
	for _, h := range []string{"h1", "h2"} {
		for service, flags := range flags {
			serve(t, shared, shared.Host(h), service+"-"+h, flags...)
		}
	}
	outside := shared.Host("outside")
	for _, via := range shared.Members() { // h3 has no replica, h1 and h2 have one and lead to the other as well
		for service, port := range map[string]string{"real": "8090", "hidden": "8091"} {
			for _, network := range []string{"tcp", "udp"} {
				for address, want := range map[string]string{via.IP: outside.IP, "[" + via.IP6 + "]": outside.IP6} {
					what := fmt.Sprintf("both replicas of %s see %s through %s by %s", service, want, via.Name, network)
					within(t, 15*time.Second, what, func() error {
						seen, err := seenBy(t, outside, network, address+":"+port, 40)
						for _, name := range []string{service + "-h1", service + "-h2"} {
							if len(seen[name]) != 1 || seen[name][want] == 0 {
								return fmt.Errorf("%v, %w", seen, err)
							}
						}
						return err
					})
				}
			}
		}
	}
}

// A client may use one port of its own for connections through several hosts at once, also to one replica, where all
// but their ports would be the same; and it may go on to another host with it.
func TestOneClientPortThroughAllHosts(t *testing.T) {
	newNetwork(t, shared, "same")
	serve(t, shared, shared.Host("h1"), "same", "--network", "same", "--service", "same", "--publish", "8092:80", "--publish", "8092:80/udp")
	outside := shared.Host("outside")
	for _, network := range []string{"tcp", "udp"} {
		var four, six []string
		for _, h := range shared.Members() {
			four = append(four, h.IP+":8092")
			six = append(six, "["+h.IP6+"]:8092")
		}
		for want, addrs := range map[string][]string{outside.IP: four, outside.IP6: six} {
			within(t, 15*time.Second, fmt.Sprintf("%s through all hosts by %s", want, network), func() error {
				out, err := outside.Run(testContext(t), peerBinary, append([]string{"same", network}, addrs...)...)
				if err != nil {
					return err
				}
				for line := range strings.Lines(out) {
					fields := strings.Fields(line)
					addr, err := netip.ParseAddrPort(fields[len(fields)-1])
					if err != nil || addr.Addr().Unmap().String() != want {
						return fmt.Errorf("the replica saw %q, not %s", line, want)
					}
				}
				return nil
			})
		}
	}
}
