package metrics

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshd/meshd/api"
)

// upWithin is the age in seconds up to which a handshake proves a tunnel: WireGuard makes a new
// one every 120 s while there is traffic, and gives a session up after 180 s (REJECT_AFTER_TIME).
const upWithin = 180

// scrapeTimeout ends what a scrape waits for, before Prometheus' own 10 s do.
const scrapeTimeout = 5 * time.Second

// memberStates are the values of Member.Status: each has a series, so that "none failed" is
// a 0 and not a gap.
var memberStates = []string{"alive", "suspect", "failed", "left", "evicted"}

// parts are what Status.Repairs counts by.
var parts = []string{"gateway", "ingress", "overlay", "wireguard"}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshd_"+name, help, labels, nil)
}

var (
	buildInfo      = desc("build_info", "1; the version of meshd is a label.", "version")
	scrapeOK       = desc("scrape_success", "Whether the daemon answered everything that these metrics are made of.")
	inMesh         = desc("member", "Whether this host belongs to a mesh.")
	healthy        = desc("healthy", "Whether this host found nothing wrong.")
	problems       = desc("problems", "Number of things that this host found wrong.")
	members        = desc("members", "Number of hosts of the mesh by status.", "status")
	memberRTT      = desc("member_rtt_seconds", "Round-trip time to another host, where it is measured.", "name", "id")
	peerUp         = desc("peer_up", "Whether the tunnel to another host had a handshake in the last 180 seconds.", "name", "id")
	peerHandshake  = desc("peer_handshake_age_seconds", "Time since the last handshake with another host, where there was one.", "name", "id")
	peerReceived   = desc("peer_received_bytes_total", "Bytes received from another host through its tunnel.", "name", "id")
	peerSent       = desc("peer_sent_bytes_total", "Bytes sent to another host through its tunnel.", "name", "id")
	peerMTU        = desc("peer_mtu_bytes", "Largest packet that fits into the tunnel to another host.", "name", "id")
	networks       = desc("networks", "Number of overlay networks.")
	networkMembers = desc("network_endpoints", "Number of endpoints on a network, on all hosts.", "network")
	repairs        = desc("repairs_total", "Number of changes by which somebody else's doing on this host was undone, by part.", "part")
	networkUsed    = desc("network_used_ratio", "Share of a network's addresses that hosts have taken, 0 to 1.", "network")
	endpoints      = desc("endpoints", "Number of presences of endpoints on networks, on all hosts, by health.", "health")
)

// collector asks the daemon at each scrape.
type collector struct {
	ctx    context.Context // ends with the server: Prometheus' interface hands in none
	source Source
	log    *slog.Logger
}

// Describe implements prometheus.Collector. It describes nothing, as the series depend on the mesh.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, scrapeTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	if err := c.collect(ctx, out, gauge); err != nil {
		c.log.Warn("metrics are incomplete", "err", err)
		gauge(scrapeOK, 0)
		return
	}
	gauge(scrapeOK, 1)
}

type gaugeFunc func(d *prometheus.Desc, value float64, labels ...string)

func (c *collector) collect(ctx context.Context, out chan<- prometheus.Metric, gauge gaugeFunc) error {
	status, err := c.source.Status(ctx)
	if err != nil {
		return err
	}
	joined := status.State == "member"
	gauge(buildInfo, 1, status.Version)
	gauge(inMesh, number(joined))
	gauge(healthy, number(status.Healthy))
	gauge(problems, float64(len(status.Health)))
	if !joined {
		return nil
	}
	peers(status.Peers, out, gauge)
	repaired(status.Repairs.Counts, out)
	gauge(networks, float64(len(status.Networks)))
	for _, n := range status.Networks {
		gauge(networkMembers, float64(n.Endpoints), n.Name)
		gauge(networkUsed, float64(n.Usage)/100, n.Name)
	}
	return c.collectMesh(ctx, gauge)
}

func repaired(counts []api.RepairCount, out chan<- prometheus.Metric) {
	changes := make(map[string]int)
	for _, c := range counts {
		changes[c.Part] = c.Changes
	}
	for _, part := range parts {
		out <- prometheus.MustNewConstMetric(repairs, prometheus.CounterValue, float64(changes[part]), part)
	}
}

func peers(list []api.PeerStatus, out chan<- prometheus.Metric, gauge gaugeFunc) {
	for _, p := range list {
		gauge(peerUp, number(p.Handshake >= 0 && p.Handshake <= upWithin), p.Name, p.ID)
		if p.Handshake >= 0 {
			gauge(peerHandshake, p.Handshake, p.Name, p.ID)
		}
		gauge(peerMTU, float64(p.MTU), p.Name, p.ID)
		out <- prometheus.MustNewConstMetric(peerReceived, prometheus.CounterValue, float64(p.RX), p.Name, p.ID)
		out <- prometheus.MustNewConstMetric(peerSent, prometheus.CounterValue, float64(p.TX), p.Name, p.ID)
	}
}

// collectMesh counts what is seen of all hosts.
func (c *collector) collectMesh(ctx context.Context, gauge gaugeFunc) error {
	all, err := c.source.Members(ctx)
	if err != nil {
		return err
	}
	byStatus := map[string]int{}
	for _, m := range all {
		byStatus[m.Status]++
		if m.RTT > 0 && !m.Self {
			gauge(memberRTT, m.RTT/1000, m.Name, m.ID)
		}
	}
	for _, state := range memberStates {
		gauge(members, float64(byStatus[state]), state)
	}
	list, err := c.source.Endpoints(ctx)
	if err != nil {
		return err
	}
	byHealth := map[string]int{}
	for _, e := range list {
		byHealth[e.Health]++
	}
	for health, n := range byHealth {
		gauge(endpoints, float64(n), health)
	}
	return nil
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
