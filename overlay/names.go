package overlay

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
)

// Names are made so that they tell ours from everybody else's, and so that a
// restarted process finds what its predecessor made.

// BridgeName is the name of a network's bridge in the mesh namespace.
func BridgeName(vni uint32) string { return fmt.Sprintf("br%06x", vni) }

// VXLANName is the name of a network's VXLAN device in the mesh namespace.
func VXLANName(vni uint32) string { return fmt.Sprintf("vx%06x", vni) }

// PortName is the name, in the mesh namespace, of the veth that leads to an
// endpoint's interface on a network.
func PortName(endpoint, network string) string {
	sum := sha256.Sum256([]byte(endpoint + "/" + network))
	return "ve" + hex.EncodeToString(sum[:])[:11]
}

var ourNames = regexp.MustCompile(`^(br[0-9a-f]{6}|vx[0-9a-f]{6}|ve[0-9a-f]{11})$`)

func isOurs(name string) bool { return ourNames.MatchString(name) }
