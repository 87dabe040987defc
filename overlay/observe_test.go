package overlay_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshd/meshd/internal/link/linktest"
	"github.com/meshd/meshd/overlay"
)

func TestObserveTellsWhatIsThere(t *testing.T) {
	l := twoByTwo(t)
	got, err := overlay.New(overlay.Options{MeshNamespace: l.mesh[0]}).Observe()
	if err != nil {
		t.Fatal(err)
	}
	want := []overlay.Observed{{
		VNI: 0x101, MTU: mtu, Local: l.vtep[0], Up: true, Remotes: []netip.Addr{l.vtep[1]},
		Tunnels: map[string]netip.Addr{"02:50:00:00:01:0c": l.vtep[1]},
		Neighbors: map[netip.Addr]string{
			netip.MustParseAddr("10.50.0.12"): "02:50:00:00:01:0c",
			netip.MustParseAddr("fd50::c"):    "02:50:00:00:01:0c",
		},
		Ports: map[string]string{
			"02:50:00:00:00:0b": overlay.PortName("000000000001", "red"),
			"02:50:00:00:00:0e": overlay.PortName("000000000005", "red"),
		},
	}, {
		VNI: 0x102, MTU: mtu, Local: l.vtep[0], Up: true, Remotes: []netip.Addr{l.vtep[1]},
		Tunnels: map[string]netip.Addr{"02:50:00:01:01:0c": l.vtep[1]},
		Neighbors: map[netip.Addr]string{
			netip.MustParseAddr("10.50.0.12"): "02:50:00:01:01:0c",
			netip.MustParseAddr("fd50::c"):    "02:50:00:01:01:0c",
		},
		Ports: map[string]string{"02:50:00:01:00:0d": overlay.PortName("000000000003", "blue")},
	}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestObserveWithoutMeshNamespace(t *testing.T) {
	got, err := overlay.New(overlay.Options{MeshNamespace: t.TempDir() + "/none"}).Observe()
	if err != nil || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestManyEndpointsUnchangedAreQuick(t *testing.T) {
	l := newLab(t)
	l.network("red", 0x101)
	for i := range byte(60) {
		l.endpoint(t, fmt.Sprintf("e%d", i), 0, 0, i+2)
	}
	l.apply(t)
	before := processorTime(t)
	l.apply(t)
	took := processorTime(t) - before // how busy the machine is says nothing
	t.Logf("unchanged Apply with 60 endpoints: %s of the processor", took)
	if took > time.Second {
		t.Errorf("it took %s", took)
	}
	linktest.Ping(t, l.nodes["e0"], "10.50.0.61", mtu)
}
