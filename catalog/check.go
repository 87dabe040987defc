package catalog

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Bounds on what one document may hold. They are far above what hosts do and
// keep what a hostile member can make others store and compute within reason.
const (
	maxClaims      = 16384
	maxEndpoints   = 4096
	maxAttachments = 32
	maxPublish     = MaxPorts
	maxAliases     = 64 // of an endpoint on one network
	maxCandidates  = 32
	maxOccupied    = 4096
	maxText        = 253 // characters of names and versions
)

// MaxPorts is how many ports an endpoint may publish, and a service's settings may add or withdraw.
const MaxPorts = 128

// checker is a body that can tell whether it is well formed by itself, whoever signed it.
type checker interface{ check() error }

// firstOf returns the first error: what is wrong is told in one line.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkKey(what string, key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%s has %d bytes, not %d", what, len(key), ed25519.PublicKeySize)
	}
	return nil
}

func checkMesh(m MeshID) error {
	if !m.Valid() {
		return fmt.Errorf("mesh id %.40q is malformed", m)
	}
	return nil
}

func checkStamps(stamps ...Millis) error {
	for _, s := range stamps {
		if s < 0 {
			return fmt.Errorf("time %d lies before 1970", s)
		}
	}
	return nil
}

// checkText refuses what would garble a terminal or a log.
func checkText(what, s string) error {
	if len(s) > maxText {
		return fmt.Errorf("%s has %d characters, more than %d", what, len(s), maxText)
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return fmt.Errorf("%s %q has a control character or is not UTF-8", what, s)
		}
	}
	return nil
}

func (s Signer) check() error {
	return firstOf(checkMesh(s.Mesh), checkKey("key", s.Key), checkStamps(s.Issued))
}

func (i Invite) check() error {
	if err := firstOf(checkMesh(i.Mesh), checkKey("key", i.Key), checkStamps(i.Created, i.Expires)); err != nil {
		return err
	}
	if i.ID != InviteIDOf(i.Key) {
		return fmt.Errorf("id %.40q is not its key's", i.ID)
	}
	if i.Uses < 0 {
		return fmt.Errorf("uses is %d", i.Uses)
	}
	return nil
}

// check also verifies what the certificate holds within: the token, and that its
// invite names this node.
func (c Certificate) check() error {
	if err := firstOf(checkMesh(c.Mesh), checkKey("node key", c.Node), checkStamps(c.Signed)); err != nil {
		return err
	}
	_, err := c.token()
	return err
}

// token opens the certificate's token and checks that it was for this node.
func (c Certificate) token() (Invite, error) {
	invite, err := Decode[Invite](c.Token)
	if err != nil {
		return invite, err
	}
	if err := c.Token.Verify(); err != nil {
		return invite, err
	}
	if invite.Mesh != c.Mesh {
		return invite, errors.New("the token is another mesh's")
	}
	if !invite.admits(c.Mesh, c.Node, c.Invite) {
		return invite, errors.New("the token's key did not sign for this node")
	}
	if invite.Expires != 0 && c.Signed >= invite.Expires {
		return invite, errors.New("the token had expired")
	}
	return invite, nil
}

// admits says whether signature is the invite key's for that node.
func (i Invite) admits(mesh MeshID, node ed25519.PublicKey, signature []byte) bool {
	return len(signature) == ed25519.SignatureSize && ed25519.Verify(i.Key, InviteMessage(mesh, node), signature)
}

func (d Document) check() error {
	err := firstOf(checkMesh(d.Mesh), checkStamps(d.Stamp), checkText("name", d.Name), checkText("version", d.Version),
		checkText("instance", d.Instance), checkText("follows", d.Follows))
	if err != nil {
		return err
	}
	switch {
	case d.Epoch == 0 || d.Sequence == 0:
		return errors.New("epoch and sequence count from 1")
	case d.MTU < 0 || d.MTU > 65535:
		return fmt.Errorf("mtu %d is not 0 to 65535", d.MTU)
	case len(d.Candidates) > maxCandidates:
		return fmt.Errorf("%d candidates, more than %d", len(d.Candidates), maxCandidates)
	case len(d.Occupied) > maxOccupied:
		return fmt.Errorf("%d occupied ports, more than %d", len(d.Occupied), maxOccupied)
	case len(d.Endpoints) > maxEndpoints:
		return fmt.Errorf("%d endpoints, more than %d", len(d.Endpoints), maxEndpoints)
	}
	for _, c := range d.Candidates {
		if !c.IsValid() || c.Addr().Zone() != "" {
			return fmt.Errorf("candidate %s is not an address and port", c)
		}
	}
	if err := checkRoutes(d.Routes); err != nil {
		return err
	}
	if err := checkClaims(d.Claims); err != nil {
		return err
	}
	for i, e := range d.Endpoints {
		if err := e.check(); err != nil {
			return fmt.Errorf("endpoint %d: %w", i, err)
		}
		if i > 0 && d.Endpoints[i-1].ID >= e.ID {
			return fmt.Errorf("endpoint %d is not in order of id", i)
		}
	}
	return checkPorts("occupied", d.Occupied)
}

// checkPorts wants ports in order of protocol and number.
func checkPorts(what string, ports []Port) error {
	for i, p := range ports {
		if p.Number == 0 || !knownProtocol(p.Protocol) {
			return fmt.Errorf("%s port %d/%.10s is malformed", what, p.Number, p.Protocol)
		}
		if i > 0 && comparePorts(ports[i-1], p) >= 0 {
			return fmt.Errorf("%s port %d is not in order of protocol and number", what, i)
		}
	}
	return nil
}

func claimLess(a, b Claim) bool {
	return a.Network < b.Network || a.Network == b.Network && a.Block < b.Block
}

func (e Endpoint) check() error {
	if len(e.ID) != 12 || strings.Trim(e.ID, "0123456789abcdef") != "" {
		return fmt.Errorf("id %.20q is not 12 hex digits", e.ID)
	}
	if err := firstOf(checkText("name", e.Name), checkStamps(e.Created)); err != nil {
		return err
	}
	if e.Service != "" {
		if err := checkName("service", e.Service); err != nil {
			return err
		}
	}
	if e.Health != Healthy && e.Health != Starting && e.Health != Unhealthy {
		return fmt.Errorf("health is %.20q", e.Health)
	}
	if e.Reason != "" {
		if err := checkText("reason", e.Reason); err != nil {
			return err
		}
	}
	if len(e.Attachments) > maxAttachments || len(e.Publish) > maxPublish {
		return fmt.Errorf("%d attachments and %d published ports, more than %d and %d",
			len(e.Attachments), len(e.Publish), maxAttachments, maxPublish)
	}
	seen := map[string]bool{}
	for _, a := range e.Attachments {
		if err := a.check(); err != nil {
			return err
		}
		if seen[a.Network] {
			return fmt.Errorf("it is on network %s twice", a.Network)
		}
		seen[a.Network] = true
	}
	ports := map[Port]bool{}
	for _, p := range e.Publish {
		if err := p.check(); err != nil {
			return err
		}
		key := p.port()
		if ports[key] {
			return fmt.Errorf("it publishes %d/%s twice", p.Published, p.Protocol)
		}
		ports[key] = true
	}
	return nil
}

func (a Attachment) check() error {
	if err := firstOf(checkName("network", a.Network), checkStamps(a.VIPStamp)); err != nil {
		return err
	}
	mac, err := net.ParseMAC(a.MAC)
	if err != nil || len(mac) != 6 || mac.String() != a.MAC || mac[0]&1 != 0 {
		return fmt.Errorf("MAC %.40q is not a unicast Ethernet address in lower case", a.MAC)
	}
	if a.Aliases == "" {
		return nil
	}
	aliases := strings.Split(a.Aliases, " ")
	if len(aliases) > maxAliases {
		return fmt.Errorf("%d aliases, more than %d", len(aliases), maxAliases)
	}
	for _, alias := range aliases {
		if err := CheckAlias(alias); err != nil {
			return err
		}
	}
	return nil
}

func (p Publish) check() error {
	if p.Published == 0 || p.Target == 0 || !knownProtocol(p.Protocol) {
		return fmt.Errorf("published port %d:%d/%.10s is malformed", p.Published, p.Target, p.Protocol)
	}
	return checkStamps(p.Stamp)
}

func knownProtocol(name string) bool { return name == "tcp" || name == "udp" }

// maxVNI is the highest VXLAN network identifier (RFC 7348: 24 bits).
const maxVNI = 1<<24 - 1

func (n NetworkRecord) check() error {
	if err := firstOf(checkMesh(n.Mesh), checkName("network", n.Name), checkStamps(n.Stamp, n.Created)); err != nil {
		return err
	}
	if n.Revision == 0 {
		return errors.New("revisions count from 1")
	}
	if n.VNI == 0 || n.VNI > maxVNI {
		return fmt.Errorf("vni %d is not 1 to %d", n.VNI, maxVNI)
	}
	if err := firstOf(checkSubnet4(n.Subnet4), n.checkGrowths(), CheckLabels(n.Labels)); err != nil {
		return err
	}
	return checkSubnet6(n.Subnet6)
}

func (s ServiceRecord) check() error {
	if err := firstOf(checkMesh(s.Mesh), checkName("network", s.Network), checkName("service", s.Service), checkStamps(s.Stamp)); err != nil {
		return err
	}
	switch {
	case s.Revision == 0:
		return errors.New("revisions count from 1")
	case s.Affinity != AffinityNone && s.Affinity != AffinityClientIP:
		return fmt.Errorf("affinity is %.20q", string(s.Affinity))
	case s.Prefer != PreferNone && s.Prefer != PreferLocal:
		return fmt.Errorf("prefer is %.20q", string(s.Prefer))
	case len(s.Publish) > MaxPorts || len(s.Withdraw) > MaxPorts:
		return fmt.Errorf("%d published and %d withdrawn ports, more than %d", len(s.Publish), len(s.Withdraw), MaxPorts)
	case s.Deleted != s.saysNothing():
		return errors.New("a tombstone says nothing, and what says nothing is a tombstone")
	}
	return s.checkPorts()
}

func (s ServiceRecord) checkPorts() error {
	for i, p := range s.Publish {
		if err := p.check(); err != nil {
			return err
		}
		if i > 0 && comparePorts(s.Publish[i-1].port(), p.port()) >= 0 {
			return fmt.Errorf("published port %d is not in order of protocol and number", i)
		}
	}
	for _, p := range s.Withdraw {
		if s.publishes(p) {
			return fmt.Errorf("port %d/%s is published and withdrawn", p.Number, p.Protocol)
		}
	}
	return checkPorts("withdrawn", s.Withdraw)
}

// checkName takes a DNS label of lower-case letters, digits, - and _, which
// begins and ends with a letter or digit.
func checkName(what, s string) error {
	const inner = "abcdefghijklmnopqrstuvwxyz0123456789-_"
	switch {
	case s == "":
		return fmt.Errorf("a %s needs a name", what)
	case len(s) > 63:
		return fmt.Errorf("%s name %.20s… has %d characters: use at most 63", what, s, len(s))
	case strings.Trim(s, inner) != "" || strings.Trim(s[:1]+s[len(s)-1:], "-_") != s[:1]+s[len(s)-1:]:
		return fmt.Errorf("%s name %q is not allowed: use a-z, 0-9, - and _, with a letter or digit at both ends", what, s)
	}
	return nil
}

func checkSubnet4(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is4():
		return fmt.Errorf("%s is not an IPv4 subnet", p)
	case p.Masked() != p:
		return fmt.Errorf("%s has host bits set: use %s", p, p.Masked())
	case p.Bits() < minBits4 || p.Bits() > maxBits4:
		return fmt.Errorf("%s: use a subnet from /%d to /%d", p, minBits4, maxBits4)
	}
	return nil
}

func checkSubnet6(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6():
		return fmt.Errorf("%s is not an IPv6 subnet", p)
	case p.Masked() != p:
		return fmt.Errorf("%s has host bits set: use %s", p, p.Masked())
	case p.Bits() < minBits6 || p.Bits() > maxBits6:
		return fmt.Errorf("%s: use a subnet from /%d to /%d", p, minBits6, maxBits6)
	}
	return nil
}

func checkClaims(claims []Claim) error {
	if len(claims) > maxClaims {
		return fmt.Errorf("%d claims, more than %d", len(claims), maxClaims)
	}
	for i, c := range claims {
		if err := firstOf(checkName("network", c.Network), checkStamps(c.Stamp)); err != nil {
			return fmt.Errorf("claim %d: %w", i, err)
		}
		if i > 0 && !claimLess(claims[i-1], c) {
			return fmt.Errorf("claim %d is not in order of network and block", i)
		}
	}
	return nil
}

func (r Revocation) check() error {
	if err := firstOf(checkMesh(r.Mesh), checkStamps(r.Issued), checkClaims(r.Claims)); err != nil {
		return err
	}
	if (r.Node == "") == (r.Token == "") {
		return errors.New("one of node and token must be set")
	}
	if err := checkText("node name", r.Name); err != nil {
		return err
	}
	if r.Node != "" && !r.Node.Valid() {
		return fmt.Errorf("node id %.40q is malformed", r.Node)
	}
	if _, ok := idHash(r.Token); r.Token != "" && !ok {
		return fmt.Errorf("token id %.40q is malformed", r.Token)
	}
	return nil
}
