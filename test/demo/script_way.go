package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/meshd/meshd/test/lab"
)

var answer = regexp.MustCompile(`visit (\d+): answered by (web-\d) on (h\d), asked by (\S+)`)

// way shows the way of one request, with the addresses that it really had. It takes a
// request that came in at h2 and was answered on h3, so that every step crosses hosts.
func (s *show) way() error {
	s.page.title("The way of one request")
	const command = "curl -sm5 http://10.77.0.2:8080"
	out, err := s.until("outside", command, has("on h3"))
	if err != nil {
		return err
	}
	s.page.why("One request from outside, which came in at h2 and was answered on h3:")
	s.page.typed("outside", command)
	s.page.printed(out)
	found := answer.FindStringSubmatch(out)
	if found == nil {
		return fmt.Errorf("the answer is not what the web service says: %q", out)
	}
	web, err := s.service("h2", "web")
	if err != nil {
		return err
	}
	db, err := s.service("h3", "db")
	if err != nil {
		return err
	}
	replica := ""
	for _, e := range web.Endpoints {
		if e.Name == found[2] {
			replica = e.IP
		}
	}
	if replica == "" || len(db.Endpoints) != 1 {
		return fmt.Errorf("who answered is not in the list of endpoints: %v, %v", web, db)
	}
	s.page.printed(picture(s.host("h2"), s.host("h3"), s.host("h1"), replica, found, db))
	client := "The web service was asked by " + found[4] + ": that is "
	if found[4] == s.host("outside").IP {
		client += "the client's own address, which came through unchanged."
	} else {
		client += "h2's own address on the inside, through which the answer finds its way back."
	}
	s.page.why("%s", client)
	s.checked("a request crossed three hosts: in at h2, answered on h3, counted on h1")
	return nil
}

// picture is the way of a request: from outside into one host, to the web
// service on another, to the database on a third.
func picture(entry, web, base *lab.Host, replica string, answer []string, db service) string {
	return strings.Join(append(append(append([]string{
		"  outside  10.77.0.100",
		"     │",
		"     │  http://" + entry.IP + ":8080",
		"     ▼"},
		box(entry.Name+"  "+entry.IP,
			"port 8080 is published: meshd takes the connection in",
			"and picks a replica of web: "+answer[2]+", on "+web.Name)...),
		append([]string{
			"     │",
			"     │  a VXLAN frame in a WireGuard packet, encrypted:",
			"     │  UDP " + entry.IP + ":51820 → " + web.IP + ":51820",
			"     ▼"},
			box(web.Name+"  "+web.IP,
				answer[2]+"  "+replica+", port 80",
				"it asks for the name  db     →  "+db.VIP+", the virtual IP",
				"and connects to that         →  "+db.Endpoints[0].IP+", a replica of db")...)...),
		append([]string{
			"     │",
			"     │  UDP " + web.IP + ":51820 → " + base.IP + ":51820",
			"     ▼"},
			box(base.Name+"  "+base.IP,
				db.Endpoints[0].Name+"  "+db.Endpoints[0].IP+", port 6379",
				"redis counts: "+answer[1])...)...), "\n")
}

// box frames lines below a title.
func box(title string, lines ...string) []string {
	const width = 66
	out := []string{"  ┌─ " + title + " " + strings.Repeat("─", width-len([]rune(title))-2) + "┐"}
	for _, l := range lines {
		out = append(out, "  │  "+l+strings.Repeat(" ", width-len([]rune(l))-1)+"│")
	}
	return append(out, "  └"+strings.Repeat("─", width+1)+"┘")
}

// wire listens on the switch between the hosts.
func (s *show) wire() error {
	s.page.title("What somebody on the cable sees")
	const secret = "no-one-may-read-this"
	s.page.why(`An endpoint on h2 stores a secret in the database on h1 and reads it again. Meanwhile tcpdump
		listens on the switch between the hosts.`)
	wire := func(command string) (string, error) {
		return s.mesh.Wire.Run(s.ctx, "sh", "-c", command)
	}
	capture := s.mesh.Wire.Command(s.ctx, "tcpdump", "-Z", "root", "--immediate-mode", "-Uni", "br0", "-w", "/run/wire.pcap", "ip and not host 10.77.0.100")
	if err := capture.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- capture.Wait() }()
	captured := func() (packets []string, err error) {
		out, err := wire("tcpdump -nqt -r /run/wire.pcap 2>/dev/null || true") // the last packet may be written just now
		if out = strings.TrimSpace(out); out != "" {
			packets = strings.Split(out, "\n")
		}
		return packets, err
	}
	// more waits for some packets that nobody has looked at yet.
	more := func(than int) error {
		return s.waiting(func() error {
			packets, err := captured()
			if err == nil && len(packets) < than+10 {
				err = fmt.Errorf("tcpdump has seen %d packets", len(packets))
			}
			return err
		})
	}
	if err := more(0); err != nil {
		return err
	}
	before, err := captured()
	if err != nil {
		return err
	}
	command := onNetwork("sh -c 'redis-cli -h db set secret " + secret + "; redis-cli -h db get secret'")
	if err := s.run("h2", command, has("OK", secret)); err != nil {
		return err
	}
	if err := more(len(before)); err != nil {
		return err
	}
	if _, err := wire("kill -INT $(pidof tcpdump)"); err != nil {
		return err
	}
	<-ended // its status is of no interest: the file is
	packets, err := captured()
	if err != nil {
		return err
	}
	const shown = 6
	s.page.typed("switch", fmt.Sprintf("tcpdump -nqt -r /run/wire.pcap | tail -n %d", shown))
	s.page.printed(strings.Join(packets[len(packets)-shown:], "\n"))
	for _, p := range packets {
		if strings.Count(p, ".51820") != 2 {
			return fmt.Errorf("between the hosts there is something that is not WireGuard: %s", p)
		}
	}
	if _, err := wire("grep -aq " + secret + " /run/wire.pcap"); lab.ExitCode(err) != 1 {
		return errors.New("the secret is on the wire in plain text")
	}
	s.checked(fmt.Sprintf("all %d packets between the hosts are WireGuard's, and the secret is in none of them", len(packets)))
	return nil
}

func (s *show) status() error {
	s.page.title("How a host is doing")
	s.page.why("The state of one host: its tunnels to the others, its networks, and what is wrong, if anything is.")
	if err := s.run("h2", "meshd status", has("health     good")); err != nil {
		return err
	}
	s.checked("h2 finds nothing wrong")
	return nil
}

func (s *show) stopped() error {
	s.page.title("A replica stops")
	s.page.why("The web server on h3 ends. meshd sees it at once and sends nobody there any more.")
	if err := s.run("h3", "kill $(pidof web)", has("")); err != nil {
		return err
	}
	two := func(out string) error {
		if strings.Contains(out, "web-3") {
			return errors.New("web-3 is still in rotation")
		}
		return has("web-1", "web-2")(out)
	}
	if err := s.run("h1", "meshd service inspect web", two); err != nil {
		return err
	}
	const twenty = `sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do curl -sm5 http://web || echo FAILED; done'`
	for _, h := range s.members() {
		_, err := s.until(h, onNetwork(twenty), func(out string) error {
			if strings.Contains(out, "FAILED") {
				return errors.New("a visit failed")
			}
			return errors.Join(two(out), count(out, "answered by", 20))
		})
		if err != nil {
			return err
		}
	}
	s.checked("20 visits from each host reach the two replicas that are left; none fails")
	s.page.line("")
	s.page.why("Port 8080 of h3 works as before: it leads to the replicas on the other hosts.")
	if err := s.run("outside", "curl -sm5 http://10.77.0.3:8080", has("answered by web-")); err != nil {
		return err
	}
	s.checked("the published port answers on a host without a replica")
	return nil
}

func (s *show) leave() error {
	s.page.title("A host leaves")
	s.page.why("h3 leaves the mesh: the others know at once, and everything that meshd had made on h3 is removed.")
	if err := s.run("h3", "meshd leave", has("has left")); err != nil {
		return err
	}
	if err := s.run("h1", "meshd members", func(out string) error {
		return errors.Join(count(out, " alive ", 2), count(out, " left ", 1))
	}); err != nil {
		return err
	}
	s.checked("the others see that h3 has left")
	clean := func(out string) error {
		if links := strings.Fields(out); len(links) != 2 {
			return fmt.Errorf("interfaces are left: %v", links)
		}
		return nil
	}
	if _, err := s.until("h3", "ip -br link | cut -d' ' -f1", clean); err != nil {
		return err
	}
	if out, err := s.quiet("h3", "iptables-save | grep MESHD; ls /run/meshd | grep -v '[.]sock'; true"); err != nil || out != "" {
		return fmt.Errorf("something of meshd is left on h3: %s, %v", out, err)
	}
	s.checked("h3 has no interface, no firewall rule and no namespace of meshd any more")
	if out, err := s.quiet("outside", "curl -sm2 http://10.77.0.3:8080"); err == nil {
		return fmt.Errorf("port 8080 of h3 still answers: %s", out)
	}
	for _, address := range []string{"10.77.0.1", "10.77.0.2"} {
		if _, err := s.until("outside", "curl -sm5 http://"+address+":8080", has("answered by web-")); err != nil {
			return err
		}
	}
	s.checked("port 8080 is closed on h3, and still answers on h1 and h2")
	return nil
}
