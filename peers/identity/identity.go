package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/meshd/meshd/catalog"
)

// Identity is a node's keys. It is immutable and safe for concurrent use. Neither
// fmt nor slog prints its secrets.
type Identity struct {
	key       ed25519.PrivateKey
	wireGuard *ecdh.PrivateKey
}

// ID is the node's id, made of its public key.
func (id *Identity) ID() catalog.NodeID { return catalog.NodeIDOf(id.Public()) }

// Public is the node's public identity key.
func (id *Identity) Public() ed25519.PublicKey { return id.key.Public().(ed25519.PublicKey) }

// Key is the node's private identity key. It signs the node's documents and, if
// the node is a signer, tokens and revocations.
func (id *Identity) Key() ed25519.PrivateKey { return id.key }

// WireGuardKey is the private WireGuard key: 32 bytes (RFC 7748), clamped as wg(8) does it.
func (id *Identity) WireGuardKey() [32]byte { return [32]byte(id.wireGuard.Bytes()) }

// WireGuardPublic is the public half of WireGuardKey.
func (id *Identity) WireGuardPublic() catalog.WireGuardKey {
	return catalog.WireGuardKey(id.wireGuard.PublicKey().Bytes())
}

// String names the node, without secrets.
func (id *Identity) String() string { return "node " + string(id.ID()) }

// GoString keeps %#v from printing the keys.
func (id *Identity) GoString() string { return id.String() }

// LogValue keeps slog from printing the keys.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }

// fileFormat is the version of the JSON files' layout.
const fileFormat = 1

// identityJSON is identity.json. Public is there to find damage in Seed.
type identityJSON struct {
	Format    int    `json:"format"`
	Seed      []byte `json:"seed"`
	Public    []byte `json:"public"`
	WireGuard []byte `json:"wireguard"`
}

// Create makes the keys of a new node and stores them. It is an error if there are
// some already: they are never overwritten.
func (d *Dir) Create() (*Identity, error) {
	if _, err := os.Lstat(d.file(identityFile)); err == nil {
		return nil, fmt.Errorf("%s exists already: this host has an identity, which is never overwritten: `meshd leave` removes it",
			d.file(identityFile))
	}
	id, err := generate()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(identityJSON{
		Format: fileFormat, Seed: id.key.Seed(), Public: id.Public(), WireGuard: id.wireGuard.Bytes(),
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the identity: %w", err)
	}
	// What a lost identity left must not be taken for this one's.
	if err := d.Wipe(); err != nil {
		return nil, err
	}
	if err := d.write(identityFile, append(data, '\n')); err != nil {
		return nil, fmt.Errorf("%w: make %s writable, and room in it", err, d.path)
	}
	return id, nil
}

func generate() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the identity key: %w", err)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("making the WireGuard key: %w", err)
	}
	// X25519 clamps on use; wg(8) stores it clamped, and so both show the same key.
	secret[0] &= 248
	secret[31] = secret[31]&127 | 64
	wireGuard, err := ecdh.X25519().NewPrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("making the WireGuard key: %w", err)
	}
	return &Identity{key: key, wireGuard: wireGuard}, nil
}

// Load reads the keys. It returns ErrNone if the directory holds none: then the node is
// new, and [Dir.Create] makes them.
func (d *Dir) Load() (*Identity, error) {
	data, err := d.read(identityFile)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Lstat(d.file(membershipFile)); err == nil {
			return nil, d.corrupt(identityFile, fmt.Errorf("it is missing, but %s is there", membershipFile))
		}
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	var file identityJSON
	if err := decodeStrict(data, &file, func() int { return file.Format }); err != nil {
		return nil, d.corrupt(identityFile, err)
	}
	if len(file.Seed) != ed25519.SeedSize {
		return nil, d.corrupt(identityFile, fmt.Errorf("the identity key has %d bytes, not %d", len(file.Seed), ed25519.SeedSize))
	}
	key := ed25519.NewKeyFromSeed(file.Seed)
	if !bytes.Equal(key.Public().(ed25519.PublicKey), file.Public) {
		return nil, d.corrupt(identityFile, errors.New("the private and the public identity key do not belong together"))
	}
	wireGuard, err := ecdh.X25519().NewPrivateKey(file.WireGuard)
	if err != nil {
		return nil, d.corrupt(identityFile, errors.New("the WireGuard key has not 32 bytes"))
	}
	return &Identity{key: key, wireGuard: wireGuard}, nil
}

// decodeStrict reads one JSON value with no unknown fields and nothing behind it.
// format gives the layout's version once it has been read.
func decodeStrict(data []byte, into any, format func() int) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if format() > fileFormat {
		return fmt.Errorf("a newer meshd wrote it (format %d, this one reads %d): use that meshd", format(), fileFormat)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it ends after %d bytes", len(data))
	}
	if err != nil {
		return fmt.Errorf("it is not what meshd writes: %w", err)
	}
	if format() != fileFormat {
		return fmt.Errorf("it is not what meshd writes: format %d", format())
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows after its end")
	}
	return nil
}
