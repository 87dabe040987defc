package catalog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Limits on records, in bytes. What is larger is refused before it is looked at.
const (
	MaxDocument = 1 << 20     // body of a document: about 2,500 endpoints
	MaxService  = 2 * MaxBody // body of a service's settings: with all the ports it may have
	MaxBody     = 8 << 10     // body of every other kind
)

var (
	// ErrMalformed is a record that is not what its kind says.
	ErrMalformed = errors.New("malformed record")
	// ErrSignature is a record whose author did not sign it.
	ErrSignature = errors.New("the signature is not the author's")
)

// Body is what may stand in a record.
type Body interface {
	Signer | Invite | Certificate | Document | NetworkRecord | ServiceRecord | Revocation
}

// kindOf returns the kind of record that body stands in.
func kindOf(body any) (Kind, bool) {
	switch body.(type) {
	case Signer, *Signer:
		return KindSigner, true
	case Invite, *Invite:
		return KindToken, true
	case Certificate, *Certificate:
		return KindCertificate, true
	case Document, *Document:
		return KindDocument, true
	case NetworkRecord, *NetworkRecord:
		return KindNetwork, true
	case ServiceRecord, *ServiceRecord:
		return KindService, true
	case Revocation, *Revocation:
		return KindRevocation, true
	}
	return "", false
}

// Sign makes the record of body, signed by priv. Body is one of the types in Body, or
// a pointer to one, and must be kind's and well formed; else the error wraps ErrMalformed.
func Sign(priv ed25519.PrivateKey, kind Kind, body any) (Record, error) {
	if k, ok := kindOf(body); !ok || k != kind {
		return Record{}, fmt.Errorf("signing a %s record: %w: the body is a %T", kind, ErrMalformed, body)
	}
	if len(priv) != ed25519.PrivateKeySize {
		return Record{}, fmt.Errorf("signing a %s record: the key has %d bytes, not %d", kind, len(priv), ed25519.PrivateKeySize)
	}
	b, err := json.Marshal(body)
	if err != nil {
		return Record{}, fmt.Errorf("signing a %s record: %w", kind, err)
	}
	r := Record{Kind: kind, Body: b, Author: priv.Public().(ed25519.PublicKey)}
	if _, err := r.open(); err != nil {
		return Record{}, fmt.Errorf("signing a %s record: %w", kind, err)
	}
	r.Signature = ed25519.Sign(priv, r.message())
	return r, nil
}

// message is what is signed: the purpose and the kind stand before the body, so
// that no signature of one can pass for another.
func (r Record) message() []byte {
	m := make([]byte, 0, 32+len(r.Kind)+len(r.Body))
	m = append(m, "meshd record v1\x00"...)
	m = append(m, r.Kind...)
	m = append(m, 0)
	return append(m, r.Body...)
}

// Verify checks that r is of a known kind, not too large, and signed by its author. It
// says nothing of whether the author may. Errors wrap ErrMalformed or ErrSignature.
func (r Record) Verify() error {
	if err := r.checkSize(); err != nil {
		return err
	}
	if len(r.Author) != ed25519.PublicKeySize {
		return fmt.Errorf("%s record: %w: the author's key has %d bytes, not %d", r.Kind, ErrMalformed, len(r.Author), ed25519.PublicKeySize)
	}
	if len(r.Signature) != ed25519.SignatureSize || !ed25519.Verify(r.Author, r.message(), r.Signature) {
		return fmt.Errorf("%s record of %s: %w", r.Kind, NodeIDOf(r.Author), ErrSignature)
	}
	return nil
}

func (r Record) checkSize() error {
	limit := MaxBody
	switch r.Kind {
	case KindDocument:
		limit = MaxDocument
	case KindService:
		limit = MaxService
	case KindSigner, KindToken, KindCertificate, KindNetwork, KindRevocation:
	default:
		return fmt.Errorf("%w: unknown kind %.20q", ErrMalformed, r.Kind)
	}
	if len(r.Body) > limit {
		return fmt.Errorf("%s record: %w: the body has %d bytes, more than %d", r.Kind, ErrMalformed, len(r.Body), limit)
	}
	return nil
}

// Decode reads the body of r, which must be of T's kind and well formed; else the
// error wraps ErrMalformed. It does not check the signature. Fields that are not
// known are passed over, so that hosts of different versions get along.
func Decode[T Body](r Record) (T, error) {
	var body T
	if k, _ := kindOf(body); k != r.Kind {
		return body, fmt.Errorf("%w: a %.20s record is not a %s", ErrMalformed, r.Kind, k)
	}
	if err := r.checkSize(); err != nil {
		return body, err
	}
	if err := decodeOne(r.Body, &body); err != nil {
		return body, fmt.Errorf("%s record: %w: %w", r.Kind, ErrMalformed, err)
	}
	if err := any(body).(checker).check(); err != nil {
		return body, fmt.Errorf("%s record: %w: %w", r.Kind, ErrMalformed, err)
	}
	return body, nil
}

// decodeOne reads exactly one JSON object.
func decodeOne(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows the body")
	}
	return nil
}

// open decodes the body of r as its kind says.
func (r Record) open() (any, error) {
	switch r.Kind {
	case KindSigner:
		return openAs[Signer](r)
	case KindToken:
		return openAs[Invite](r)
	case KindCertificate:
		return openAs[Certificate](r)
	case KindDocument:
		return openAs[Document](r)
	case KindNetwork:
		return openAs[NetworkRecord](r)
	case KindService:
		return openAs[ServiceRecord](r)
	case KindRevocation:
		return openAs[Revocation](r)
	}
	return nil, r.checkSize()
}

func openAs[T Body](r Record) (any, error) {
	body, err := Decode[T](r)
	if err != nil {
		return nil, err
	}
	return body, nil
}

// InviteMessage is what a joining node signs with the private half of a token's key: that
// this node, and no other, joins this mesh with it.
func InviteMessage(mesh MeshID, node ed25519.PublicKey) []byte {
	m := []byte("meshd invite v1\x00")
	m = append(m, mesh...)
	m = append(m, 0)
	return append(m, node...)
}
