package dns

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// ResolvConf is the /etc/resolv.conf (resolv.conf(5)) of an endpoint.
//
// ndots:0 makes glibc, musl and Go ask for db, db.appnet and tasks.db as they stand,
// and first. The search list is the host's, for those that may ask upstreams; "."
// is none at all: without it glibc makes one up from the hostname.
func ResolvConf(server Server, config Config) []byte {
	search := "."
	if server.Forward && len(config.Search) > 0 {
		search = strings.Join(config.Search, " ")
	}
	return fmt.Appendf(nil, "# Written by meshd.\nnameserver %s\nsearch %s\noptions ndots:0\n", resolverAddr, search)
}

// HostConf is what meshd takes from a host's resolv.conf.
type HostConf struct {
	Upstreams []netip.AddrPort // in order
	Search    []string
}

// Upstreams reads a resolv.conf file, such as the host's /etc/resolv.conf. The stub of
// systemd-resolved, 127.0.0.53, is an upstream like any other: it is asked from
// the host's namespace. 127.0.0.11, which is the endpoints' own, is left out.
func Upstreams(path string) (HostConf, error) {
	file, err := os.Open(path)
	if err != nil {
		return HostConf{}, fmt.Errorf("reading the host's name servers: %w", err)
	}
	defer file.Close()
	conf, err := ParseResolvConf(file)
	if err != nil {
		return HostConf{}, fmt.Errorf("reading the host's name servers from %s: %w", path, err)
	}
	return conf, nil
}

// ParseResolvConf reads a resolv.conf much as the C library does: what it does not
// understand it passes over, and the last search or domain line counts. A file
// without a name server means the one on this host.
func ParseResolvConf(r io.Reader) (HostConf, error) {
	var conf HostConf
	named := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil {
				named = true
				conf.Upstreams = append(conf.Upstreams, netip.AddrPortFrom(addr.Unmap(), 53))
			}
		case "domain":
			conf.Search = domains(fields[1:2])
		case "search":
			conf.Search = domains(fields[1:])
		}
	}
	if err := lines.Err(); err != nil {
		return HostConf{}, err
	}
	if !named {
		conf.Upstreams = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	conf.Upstreams = usable(conf.Upstreams)
	return conf, nil
}

func domains(fields []string) []string {
	return slices.DeleteFunc(fields, func(domain string) bool { return domain == "." })
}
