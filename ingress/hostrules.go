package ingress

// Our chain in the filter table of the host's iptables. Nothing else of the host's rules is touched but the
// jumps to it.
const (
	chainIngress = "MESHD-INGRESS" // lets published ports through a forwarding policy of DROP
	chainForward = "FORWARD"
	// jumpToIngress is the rule in somebody else's chain that leads to ours.
	jumpToIngress = "-j " + chainIngress
	chainDocker   = "DOCKER-USER" // Docker's, for its users; jumps to it come before all others
)

// wantedHostRules is the rules of our chain, written as `iptables -S` prints them, that let published ports pass by the host's
// interface on the ingress network.
func wantedHostRules(name string) []string {
	return []string{
		"-o " + name + " -m conntrack --ctstate DNAT -j ACCEPT",
		"-i " + name + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}
}
