package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/meshd/meshd/catalog"
)

// Membership is what makes a node a member of a mesh.
type Membership struct {
	Mesh        catalog.MeshID
	Certificate catalog.Record // KindCertificate, for this node
}

// membershipJSON is membership.json.
type membershipJSON struct {
	Format      int            `json:"format"`
	Mesh        catalog.MeshID `json:"mesh"`
	Certificate catalog.Record `json:"certificate"`
}

// SaveMembership makes the node a member for as long as the file is there. It refuses
// a certificate that is not the node's or not of that mesh.
func (d *Dir) SaveMembership(id *Identity, m Membership) error {
	if err := checkMembership(id, m); err != nil {
		return fmt.Errorf("storing the membership: %w", err)
	}
	data, err := json.Marshal(membershipJSON{Format: fileFormat, Mesh: m.Mesh, Certificate: m.Certificate})
	if err != nil {
		return fmt.Errorf("encoding the membership: %w", err)
	}
	return d.write(membershipFile, append(data, '\n'))
}

// Membership reads the node's membership. It returns ErrNone if the node is no member.
func (d *Dir) Membership(id *Identity) (Membership, error) {
	data, err := d.read(membershipFile)
	if errors.Is(err, os.ErrNotExist) {
		return Membership{}, ErrNone
	}
	if err != nil {
		return Membership{}, err
	}
	var file membershipJSON
	if err := decodeStrict(data, &file, func() int { return file.Format }); err != nil {
		return Membership{}, d.corrupt(membershipFile, err)
	}
	m := Membership{Mesh: file.Mesh, Certificate: file.Certificate}
	if err := checkMembership(id, m); err != nil {
		return Membership{}, d.corrupt(membershipFile, err)
	}
	return m, nil
}

// checkMembership looks at what can be judged without the mesh's other records.
func checkMembership(id *Identity, m Membership) error {
	if m.Certificate.Kind != catalog.KindCertificate {
		return fmt.Errorf("it holds a record of kind %.20q instead of a certificate", m.Certificate.Kind)
	}
	if err := m.Certificate.Verify(); err != nil {
		return fmt.Errorf("the certificate: %w", err)
	}
	certificate, err := catalog.Decode[catalog.Certificate](m.Certificate)
	if err != nil {
		return fmt.Errorf("the certificate: %w", err)
	}
	if !id.Public().Equal(certificate.Node) {
		return fmt.Errorf("the certificate is node %s's, and this is node %s: it comes from another host",
			catalog.NodeIDOf(certificate.Node), id.ID())
	}
	if certificate.Mesh != m.Mesh {
		return fmt.Errorf("the certificate is of mesh %.40q, not of %.40q", certificate.Mesh, m.Mesh)
	}
	return nil
}

// NextEpoch begins a new epoch: one more than the last one and than seen, the
// highest that others know of this node (0: not known). It is on disk before NextEpoch
// returns, so no two starts of the agent write documents of one epoch.
func (d *Dir) NextEpoch(seen uint64) (uint64, error) {
	last, err := d.epoch()
	if err != nil {
		return 0, err
	}
	next := max(last, seen) + 1
	if next == 0 {
		return 0, fmt.Errorf("beginning epoch: epochs have run out: move %s away and join again (as a new node)", d.path)
	}
	if err := d.write(epochFile, fmt.Appendf(nil, "%d\n", next)); err != nil {
		return 0, fmt.Errorf("beginning epoch %d: %w: make %s writable, and room in it", next, err, d.path)
	}
	return next, nil
}

// epoch returns the last epoch that was begun, 0 if there was none.
func (d *Dir) epoch() (uint64, error) {
	data, err := d.read(epochFile)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	text, whole := strings.CutSuffix(string(data), "\n")
	last, err := strconv.ParseUint(text, 10, 64)
	if err != nil || !whole {
		return 0, fmt.Errorf("%s is %w: it holds %.30q instead of a number: move it away and start the agent again; the epoch follows from the catalog",
			d.file(epochFile), ErrCorrupt, data)
	}
	return last, nil
}
