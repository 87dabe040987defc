package agent

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
)

// A port that a process has is refused with who it is.
func TestPortOfAProcessIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	s := answering(t)
	wantCode(t, s.choosePublish(api.AttachRequest{Publish: []api.Publish{{Published: port, Target: 80, Protocol: "tcp"}}}, &Local{}),
		api.CodeConflict, fmt.Sprintf("port %d/tcp is in use on this host", port), "end that program")
	_, err = s.UpdateService(t.Context(), "web", api.ServiceRequest{Publish: []api.Publish{{Published: port, Target: 80, Protocol: "tcp"}}})
	wantCode(t, err, api.CodeConflict, "in use on this host")
}

// A host tells which published ports a process of it has; it and the others say so.
func TestOccupiedPortsAreTold(t *testing.T) {
	w := newWorld(t)
	occupied := func(d *catalog.Document) { d.Sequence, d.Occupied = 2, []catalog.Port{{Protocol: "tcp", Number: 8080}} }
	s := answering(t,
		w.document("a", occupied,
			endpoint("1", "web1", "web", []at{{"appnet", 8}, {"ingress", 8}}, tcp(8080, 80, testTime)),
			endpoint("3", "ingress", "", []at{{"ingress", 9}})),
		w.document("c", occupied))
	svc, err := s.Service(t.Context(), "web")
	if err != nil || len(svc.Ports) != 1 || !slices.Equal(svc.Ports[0].HeldOn, []string{"a", "c"}) {
		t.Errorf("%+v, %v", svc, err)
	}
	problems := strings.Join(s.problems(s.store.View()), "\n")
	if !strings.Contains(problems, "port 8080/tcp of service web.appnet does not answer on this host, for another program has it") {
		t.Errorf("status does not tell: %s", problems)
	}
}
