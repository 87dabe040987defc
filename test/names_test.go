package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshd/meshd/test/lab"
)

// dig asks once, as an endpoint of a network does, and returns the status and the answers.
func dig(t *testing.T, h *lab.Host, network string, args ...string) (status string, answers []string) {
	t.Helper()
	status, answers, err := tryDig(t, h, network, args...)
	if err != nil {
		t.Fatal(err)
	}
	return status, answers
}

// tryDig is dig for where no answer is none yet.
func tryDig(t *testing.T, h *lab.Host, network string, args ...string) (status string, answers []string, err error) {
	t.Helper()
	command := append([]string{"dig", "+tries=1", "+time=30", "+noall", "+comments", "+answer"}, args...)
	out, err := atOnce(t, shared, h, network, command...)
	if err != nil {
		return "", nil, fmt.Errorf("dig %v: %w: %s", args, err, out)
	}
	for _, line := range strings.Split(out, "\n") {
		if _, rest, ok := strings.Cut(line, "status: "); ok {
			status, _, _ = strings.Cut(rest, ",")
		}
		if fields := strings.Fields(line); len(fields) >= 5 && !strings.HasPrefix(line, ";") {
			answers = append(answers, fields[3]+" "+strings.Join(fields[4:], " "))
		}
	}
	slices.Sort(answers)
	return status, answers, nil
}

func TestNames(t *testing.T) {
	newNetwork(t, shared, "names")
	newNetwork(t, shared, "foreign")
	h := shared.Host("h3")
	var replicas []string
	for _, host := range shared.Members()[:2] {
		r := serve(t, shared, host, host.Name, "--network", "names", "--service", "db", "--publish", "8110:80")
		replicas = append(replicas, "A "+r.IP)
	}
	serve(t, shared, shared.Host("h1"), "x", "--network", "foreign", "--service", "secret")
	slices.Sort(replicas)
	vip := serviceVIP(t, "db.names")

	for _, name := range []string{"db", "db.names", "db.names.mesh.internal", "DB.Names"} {
		if status, got := dig(t, h, "names", name, "A"); status != "NOERROR" || !slices.Equal(got, []string{"A " + vip}) {
			t.Errorf("%s: %s %v, want %s", name, status, got, vip)
		}
	}
	if status, got := dig(t, h, "names", "db", "AAAA"); status != "NOERROR" || len(got) != 1 || !strings.HasPrefix(got[0], "AAAA fd") {
		t.Errorf("db AAAA: %s %v", status, got)
	}
	within(t, 2*time.Second, "tasks.db has both replicas", func() error {
		if _, got, err := tryDig(t, h, "names", "tasks.db", "A"); err != nil || !slices.Equal(got, replicas) {
			return fmt.Errorf("got %v, want %v, %w", got, replicas, err)
		}
		return nil
	})
	// Each replica's port, under a name that leads to its address.
	status, records := dig(t, h, "names", "_80._tcp.db", "SRV")
	var targets []string
	for _, record := range records {
		fields := strings.Fields(record) // SRV 0 0 80 NAME
		if len(fields) != 5 || fields[3] != "80" {
			t.Errorf("_80._tcp.db: %s", record)
			continue
		}
		_, addresses := dig(t, h, "names", fields[4], "A")
		targets = append(targets, addresses...)
	}
	if slices.Sort(targets); status != "NOERROR" || !slices.Equal(targets, replicas) {
		t.Errorf("_80._tcp.db: %s %v leads to %v, want %v", status, records, targets, replicas)
	}
	for want, question := range map[string][]string{
		"NOERROR []":                            {"db", "MX"},
		"NXDOMAIN []":                           {"nosuch.names", "A"},
		"NOERROR [PTR db.names.mesh.internal.]": {"-x", vip},
		"NOERROR [A " + vip + "]":               {"+tcp", "db", "A"},
	} {
		if status, got := dig(t, h, "names", question...); fmt.Sprintf("%s %v", status, got) != want {
			t.Errorf("%v: %s %v, want %s", question, status, got, want)
		}
	}
	for _, name := range []string{"secret", "secret.foreign", "secret.foreign.mesh.internal", "tasks.secret.foreign"} {
		if status, got := dig(t, h, "names", "+noedns", name, "A"); status == "NOERROR" || len(got) > 0 {
			t.Errorf("%s, a name of another network: %s %v", name, status, got)
		}
	}
	if status, got := dig(t, h, "names", "+edns=0", "+bufsize=1232", "h1.node", "A"); !slices.Equal(got, []string{"A 10.77.0.1"}) {
		t.Errorf("h1.node: %s %v", status, got)
	}
}

// What `meshd dns query` says is what programs get, and `meshd ping` says whether a host is there.
func TestReachabilityFromTheCommandLine(t *testing.T) {
	newNetwork(t, shared, "asked")
	newNetwork(t, shared, "unasked")
	h := shared.Host("h2")
	serve(t, shared, shared.Host("h1"), "one", "--network", "asked", "--service", "db")
	client := start(t, shared, h, []string{"--network", "unasked"}, "sleep", "infinity")
	vip := serviceVIP(t, "db.asked")
	var answer struct {
		Code    string
		Records []struct{ Data string }
	}
	if err := shared.MeshdJSON(testContext(t), h, &answer, "dns", "query", "db.asked"); err != nil || len(answer.Records) != 1 || answer.Records[0].Data != vip {
		t.Errorf("%+v, %v, want %s", answer, err, vip)
	}
	complaint(t, shared, h, 1, []string{"db.asked", "dns.upstreams"}, "dns", "query", "db.asked", "--from", client.ID) // not the mesh's for it
	complaint(t, shared, h, 1, []string{"nosuch"}, "dns", "query", "db.asked", "--from", "nosuch")
	for _, other := range shared.Members() {
		within(t, 10*time.Second, other.Name+" answers", func() error { // a ping that took two seconds is lost
			out, err := shared.Meshd(testContext(t), h, "ping", other.Name, "--count", "1")
			if err != nil || !strings.HasPrefix(out, other.Name+" answers from fd") {
				return fmt.Errorf("%q, %w", out, err)
			}
			return nil
		})
	}
	complaint(t, shared, h, 1, []string{"outside", "meshd members"}, "ping", "outside")
}

// Names that are not the mesh's are asked of the host's own name server.
func TestOtherNamesGoUpstream(t *testing.T) {
	newNetwork(t, shared, "fwd")
	ctx := testContext(t)
	upstream := shared.Host("outside").Command(ctx, peerBinary, "names", "10.77.0.100:53", "example.test=192.0.2.7")
	if err := upstream.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = signalChildren(upstream.Process.Pid, 15)
		_ = upstream.Wait() // ended by us
	})
	within(t, 5*time.Second, "example.test resolves", func() error {
		status, got, err := tryDig(t, shared.Host("h1"), "fwd", "example.test", "A")
		if err != nil || status != "NOERROR" || !slices.Equal(got, []string{"A 192.0.2.7"}) {
			return fmt.Errorf("%s %v, %w", status, got, err)
		}
		return nil
	})
	within(t, 10*time.Second, "nosuch.test is answered", func() error {
		status, _, err := tryDig(t, shared.Host("h1"), "fwd", "nosuch.test", "A")
		if err != nil || status == "SERVFAIL" { // the upstream took more than two seconds
			return fmt.Errorf("%s, %w", status, err)
		}
		if status != "NXDOMAIN" {
			t.Errorf("nosuch.test: %s, want the upstream's NXDOMAIN", status)
		}
		return nil
	})
}

func serviceVIP(t *testing.T, name string) string {
	t.Helper()
	var service struct{ VIP string }
	within(t, 3*time.Second, "service "+name+" is known", func() error {
		return shared.MeshdJSON(testContext(t), shared.Host("h3"), &service, "service", "inspect", name)
	})
	return service.VIP
}
