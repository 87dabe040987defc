package door

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Without a token, two people (or one who looks at two screens) make sure that a newcomer and a signer
// speak to each other: both hosts show a code that follows from this very TLS session and from a number
// of each side. The newcomer commits to its number before it sees the signer's, and the signer sends its
// own before it sees the newcomer's. So whoever sits between, with a session to each, can try one
// code for each attempt, and cannot compute which one would fit. When the codes are the same and
// the signer's person says so, the signer sends a token through the session, and joining goes on with it.
const (
	// PairTime is how long a newcomer waits to be let in, at both ends.
	PairTime = 10 * time.Minute

	nonceSize    = 32
	codeModulus  = 100_000_000 // 8 digits
	maxPairFrame = 4 << 10
)

// pairOffer is the signer's answer to a hello with a commitment.
type pairOffer struct {
	Code    Code   `json:"code,omitempty"` // empty: go on
	Version int    `json:"version"`
	Nonce   []byte `json:"nonce,omitempty"`

	Signers []netip.AddrPort `json:"signers,omitempty"` // with CodeNoSigner: whom to ask
}

// maxSigners is how many signers a member names, and how many a newcomer asks.
const maxSigners = 8

// pairReveal opens the newcomer's commitment.
type pairReveal struct {
	Nonce []byte `json:"nonce"`
	Name  string `json:"name"` // what it calls itself
}

// pairGrant ends the pairing.
type pairGrant struct {
	Code  Code   `json:"code,omitempty"` // empty: let in
	Token string `json:"token,omitempty"`
}

func newNonce() []byte {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails
	return nonce
}

// commitment says nothing of a nonce, and fits no other.
func commitment(nonce []byte) []byte {
	sum := sha256.Sum256(append([]byte("meshd pairing commitment v1\x00"), nonce...))
	return sum[:]
}

var errNonce = errors.New("a number of the pairing has the wrong size")

// pairingCode is what people compare: eight digits, in two groups.
func pairingCode(binding []byte, door ed25519.PublicKey, newcomer, signer []byte) (string, error) {
	if len(newcomer) != nonceSize || len(signer) != nonceSize || len(door) != ed25519.PublicKeySize || len(binding) != bindingSize {
		return "", errNonce
	}
	sum := sha256.New()
	for _, part := range [][]byte{[]byte("meshd pairing code v1\x00"), binding, door, newcomer, signer} { // each of one size
		sum.Write(part)
	}
	number := binary.BigEndian.Uint64(sum.Sum(nil)) % codeModulus
	return fmt.Sprintf("%04d-%04d", number/10_000, number%10_000), nil
}
