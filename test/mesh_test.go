package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

func TestEverybodyReachesEverybody(t *testing.T) {
	newNetwork(t, shared, "reach")
	serve(t, shared, shared.Host("h1"), "one", "--network", "reach", "--service", "db")
	two := serve(t, shared, shared.Host("h2"), "two", "--network", "reach")
	for _, from := range shared.Members() {
		for _, try := range [][]string{
			{peerBinary, "patient", "ask", "tcp", "db:80"},
			{peerBinary, "patient", "ask", "udp", "db.reach:80"},
			{peerBinary, "patient", "ask", "tcp", two.IP + ":80"},
			{peerBinary, "patient", "ask", "udp", "[" + two.IP6 + "]:80"},
			{"ping", "-c1", "-W10", "db"},
			{"ping", "-c1", "-W10", two.IP6},
		} {
			if out, err := inside(t, shared, from, "reach", try...); err != nil {
				t.Errorf("from %s: %v: %s", from.Name, err, out)
			}
		}
	}
}

func TestFullSizePacketsPass(t *testing.T) {
	newNetwork(t, shared, "size")
	ctx := testContext(t)
	var network struct{ MTU int }
	if err := shared.MeshdJSON(ctx, shared.Host("h1"), &network, "network", "inspect", "size"); err != nil {
		t.Fatal(err)
	}
	if network.MTU < 1280 {
		t.Fatalf("MTU %d is less than IPv6 needs", network.MTU)
	}
	server := serve(t, shared, shared.Host("h1"), "one", "--network", "size")
	for header, address := range map[int]string{28: server.IP, 48: server.IP6} {
		size := fmt.Sprint(network.MTU - header)
		if _, err := inside(t, shared, shared.Host("h2"), "size", "ping", "-M", "do", "-c2", "-W10", "-s", size, address); err != nil {
			t.Errorf("a packet of the full %d bytes: %v", network.MTU, err)
		}
		over := fmt.Sprint(network.MTU - header + 1)
		if _, err := inside(t, shared, shared.Host("h2"), "size", "ping", "-M", "do", "-c1", "-W1", "-s", over, address); err == nil {
			t.Errorf("a packet of %d+1 bytes passed: the MTU is not what meshd says", network.MTU)
		}
	}
}

func TestBroadcastAndMulticast(t *testing.T) {
	newNetwork(t, shared, "cast", "--subnet", "10.201.0.0/24")
	for i, to := range []struct{ shout, hear string }{
		{"10.201.0.255", "10.201.0.255"}, {"255.255.255.255", "255.255.255.255"}, {"239.1.2.3", "239.1.2.3"}, {"[ff12::1:2%eth0]", "ff12::1:2"},
	} {
		port := fmt.Sprint(7000 + i) // its own: who listens on one hears whatever comes there
		start(t, shared, shared.Host("h1"), []string{"--network", "cast"}, peerBinary, "shout", to.shout+":"+port, "hello")
		out, err := inside(t, shared, shared.Host("h2"), "cast", peerBinary, "hear", port, to.hear)
		if err != nil || out != "hello" {
			t.Errorf("%s: heard %q, %v", to.hear, out, err)
		}
	}
}

func TestNetworksAreIsolated(t *testing.T) {
	newNetwork(t, shared, "left", "--subnet", "10.202.0.0/24")
	newNetwork(t, shared, "right", "--subnet", "10.202.0.0/24")
	newNetwork(t, shared, "other")
	left := serve(t, shared, shared.Host("h1"), "left", "--network", "left", "--service", "svc")
	for _, host := range []string{"h1", "h2"} {
		for _, network := range []string{"right", "other"} {
			for _, address := range []string{left.IP + ":80", "[" + left.IP6 + "]:80", "svc:80", "svc.left:80"} {
				out, err := inside(t, shared, shared.Host(host), network, peerBinary, "ask", "tcp", address)
				if err == nil {
					t.Errorf("an endpoint of %s on %s reached %s on network left: %s", network, host, address, out)
				}
			}
		}
	}
	right := serve(t, shared, shared.Host("h2"), "right", "--network", "right", "--service", "svc")
	for network, want := range map[string]string{"left": "left", "right": "right"} {
		out, err := inside(t, shared, shared.Host("h3"), network, peerBinary, "patient", "ask", "tcp", "svc:80")
		if err != nil || !strings.HasPrefix(out, want+" ") {
			t.Errorf("svc on %s: %q, %v", network, out, err)
		}
	}
	_ = right
}

// What crosses the underlay is WireGuard and the join door, and nothing else: not while hosts join, talk,
// start anew, are evicted or leave.
func TestUnderlayCarriesOnlyTunnelAndDoor(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	var lines strings.Builder
	capture := m.Wire.Command(ctx, "tcpdump", "-i", "br0", "-n", "-l", "-x", "-Q", "inout",
		"net", "10.77.0.0/24", "or", "net", "fd00:77::/64")
	listening := make(chan string, 1)
	capture.Stdout, capture.Stderr = &lines, &lineWriter{fn: func(line string) { listening <- line }}
	if err := capture.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-listening:
	case <-ctx.Done():
		t.Fatal("tcpdump does not begin")
	}
	if err := m.Form(ctx); err != nil {
		t.Fatal(err)
	}
	newNetworkIn(t, m, "quiet")
	one := serve(t, m, m.Host("h1"), "one", "--network", "quiet", "--service", "db")
	for _, address := range []string{"db:80", "[" + one.IP6 + "]:80"} {
		for _, network := range []string{"tcp", "udp"} {
			if out, err := inside(t, m, m.Host("h2"), "quiet", peerBinary, "patient", "ask", network, address, "20"); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	}
	for _, h := range m.Members() {
		if err := m.SignalAgent(ctx, h, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range m.Members() {
		if err := m.StartAgent(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 10*time.Second, "all are alive again", func() error { return m.AllAlive(ctx, 3) })
	if _, err := m.Meshd(ctx, m.Host("h1"), "evict", "h3"); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"h2", "h3"} {
		if _, err := m.Meshd(ctx, m.Host(host), "leave"); err != nil {
			t.Fatal(err)
		}
	}
	if err := signalChildren(capture.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = capture.Wait() // interrupted by us
	checkCapture(t, lines.String())
}

// checkCapture looks at what `tcpdump -n -x` printed: a line a packet, and its bytes in lines that begin
// with white space.
func checkCapture(t *testing.T, text string) {
	t.Helper()
	seen := make(map[string]int)
	for _, packet := range strings.Split(strings.ReplaceAll(text, "\n\t", " \t"), "\n") {
		head, dump, _ := strings.Cut(packet, " \t")
		fields := strings.Fields(head)
		if len(fields) < 6 || fields[1] != "IP" && fields[1] != "IP6" || strings.Contains(head, "ICMP6, neighbor") {
			continue // the underlay's own address resolution
		}
		if strings.Contains(head, "ICMP") && strings.Contains(head, "udp port 51820 unreachable") {
			continue // the kernel of a host that has left, to one that does not know yet
		}
		ports := fields[2] + " " + fields[4]
		switch {
		case strings.Contains(ports, ".7946") && strings.Contains(head, "Flags ["):
			seen["door"]++
		case strings.Contains(ports, ".51820") && strings.Contains(head, "UDP"):
			seen["WireGuard"]++
			// A message of WireGuard begins with its type, 1 to 4, and three zeros.
			if payload := udpPayload(fields[1], dump); len(payload) < 8 || payload[0] != '0' || payload[1] < '1' || payload[1] > '4' || payload[2:8] != "000000" {
				t.Errorf("this is no WireGuard: %s", packet)
			}
		default:
			t.Errorf("neither WireGuard nor the door: %s", packet)
		}
	}
	if seen["WireGuard"] < 100 || seen["door"] < 10 {
		t.Errorf("the capture saw %v packets only: it proves nothing", seen)
	}
}

// udpPayload is what a packet without options carries, in hex.
func udpPayload(protocol, dump string) string {
	var text strings.Builder
	for _, word := range strings.Fields(dump) {
		if !strings.HasSuffix(word, ":") { // offsets
			text.WriteString(word)
		}
	}
	headers := 2 * (20 + 8)
	if protocol == "IP6" {
		headers = 2 * (40 + 8)
	}
	return text.String()[min(headers, text.Len()):]
}

func TestMembersAreAliveWithinFiveSeconds(t *testing.T) {
	m := newMesh(t, 3)
	ctx := testContext(t)
	hosts := m.Members()
	for _, h := range hosts {
		if err := m.StartAgent(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	out, err := m.Meshd(ctx, hosts[0], "init")
	if err != nil {
		t.Fatal(err)
	}
	command := joinCommand(t, out)
	for _, h := range hosts[1:] {
		// The command is typed as init has printed it.
		if _, err := h.Run(ctx, m.Binary, strings.Fields(command)[1:]...); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, m.LogTail(h))
		}
	}
	within(t, 5*time.Second, "three members are alive on every host", func() error { return m.AllAlive(ctx, 3) })
}

// joinCommand finds the join command in what init printed.
func joinCommand(t *testing.T, text string) string {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if at := strings.Index(line, "meshd join "); at >= 0 {
			return line[at:]
		}
	}
	t.Fatalf("no join command in %q", text)
	return ""
}

// foundOn starts an agent and has it found a mesh, and returns the token for the others.
func foundOn(t *testing.T, m *lab.Mesh, h *lab.Host) string {
	t.Helper()
	ctx := testContext(t)
	if err := m.StartAgent(ctx, h); err != nil {
		t.Fatal(err)
	}
	var founded struct{ Token string }
	if err := m.MeshdJSON(ctx, h, &founded, "init"); err != nil {
		t.Fatal(err)
	}
	return founded.Token
}

// newMesh makes a lab of its own for a test that changes its hosts. No agent runs yet.
func newMesh(t *testing.T, hosts int) *lab.Mesh {
	t.Helper()
	ctx := testContext(t)
	m, err := lab.NewMesh(ctx, meshdBinary, lab.Options{Name: fmt.Sprintf("t%d", time.Now().UnixNano()), Hosts: hosts, Outside: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			report(t, m)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
