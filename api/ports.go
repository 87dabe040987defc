package api

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxPorts is how many ports a range may have, and how many an endpoint or a service may publish.
const MaxPorts = 128

// ParsePublish reads [HOST_PORT:]PORT[/tcp|udp]. Both may be ranges, FIRST-LAST, of one length. The error says
// how it is written.
func ParsePublish(spec string) ([]Publish, error) {
	both, protocol, ok := cutProtocol(spec, "tcp")
	published, target, two := strings.Cut(both, ":")
	if !two {
		target = published
	}
	from, count, ok1 := parseRange(published)
	to, targets, ok2 := parseRange(target)
	if !ok || !ok1 || !ok2 || count != targets {
		return nil, fmt.Errorf("%q: use [HOST_PORT:]PORT[/tcp|udp] with ports from 1 to 65535, such as 8080:80, or ranges of one length, such as 8000-8010:9000-9010/udp", spec)
	}
	if count > MaxPorts {
		return nil, tooMany(spec, count)
	}
	list := make([]Publish, count)
	for i := range list {
		list[i] = Publish{Published: from + uint16(i), Target: to + uint16(i), Protocol: protocol}
	}
	return list, nil
}

// ParsePorts reads PORT[/tcp|udp]. PORT may be a range, FIRST-LAST. Without a protocol the ports have none.
func ParsePorts(spec string) ([]Port, error) {
	text, protocol, ok := cutProtocol(spec, "")
	from, count, ok1 := parseRange(text)
	if !ok || !ok1 {
		return nil, fmt.Errorf("%q: use PORT[/tcp|udp] with a port from 1 to 65535, or a range, such as 8000-8010", spec)
	}
	if count > MaxPorts {
		return nil, tooMany(spec, count)
	}
	list := make([]Port, count)
	for i := range list {
		list[i] = Port{Port: from + uint16(i), Protocol: protocol}
	}
	return list, nil
}

func tooMany(spec string, count int) error {
	return fmt.Errorf("%q: these are %d ports, and one endpoint or service has at most %d: publish fewer", spec, count, MaxPorts)
}

func cutProtocol(spec, without string) (ports, protocol string, ok bool) {
	ports, protocol, named := strings.Cut(spec, "/")
	if !named {
		return ports, without, true
	}
	return ports, protocol, protocol == "tcp" || protocol == "udp"
}

// parseRange reads PORT or FIRST-LAST.
func parseRange(text string) (first uint16, count int, ok bool) {
	from, to, two := strings.Cut(text, "-")
	first, ok = parsePort(from)
	if !two || !ok {
		return first, 1, ok
	}
	last, ok := parsePort(to)
	return first, int(last) - int(first) + 1, ok && first <= last
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0 && text[0] != '0'
}

// FormatPublish writes ports as ParsePublish reads them: neighbours as a range.
func FormatPublish(list []Publish) []string {
	var out []string
	for i := 0; i < len(list); {
		n := 1
		for i+n < len(list) && follows(list[i+n-1], list[i+n]) {
			n++
		}
		first, last := list[i], list[i+n-1]
		out = append(out, fmt.Sprintf("%s:%s/%s", formatRange(first.Published, last.Published), formatRange(first.Target, last.Target), first.Protocol))
		i += n
	}
	return out
}

func follows(a, b Publish) bool {
	return a.Protocol == b.Protocol && a.Published+1 == b.Published && a.Target+1 == b.Target
}

func formatRange(first, last uint16) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, last)
}
