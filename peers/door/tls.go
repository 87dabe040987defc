package door

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
)

var errNotADoor = errors.New("not a join door")

// selfSigned wraps a key in the X.509 that TLS wants. Nobody reads anything of it
// but the key, so it says nothing and never expires.
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "meshd"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // "no end", RFC 5280, section 4.1.2.5
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the TLS certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true, // each session proves the key anew
	}
}

// clientTLS trusts no X.509. The key that the server proves to have is checked against
// the mesh id after the handshake, see doorKey and verifyMember.
func clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpn},
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := doorKey(state)
			return err
		},
	}
}

// doorKey is the identity key that the server has proved to hold.
func doorKey(state tls.ConnectionState) (ed25519.PublicKey, error) {
	if state.NegotiatedProtocol != alpn || len(state.PeerCertificates) != 1 {
		return nil, errNotADoor
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, errNotADoor
	}
	return key, nil
}

// certCache keeps the TLS certificate of the key that was asked for last.
type certCache struct {
	mu   sync.Mutex // guards what follows
	made bool
	key  ed25519.PrivateKey // nil: cert is of a key that nobody knows
	cert tls.Certificate
}

// of returns a certificate for key; without one, of a new key.
func (c *certCache) of(key ed25519.PrivateKey) (tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made && c.key.Equal(key) {
		return c.cert, nil
	}
	signing := key
	if signing == nil {
		var err error
		if _, signing, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return tls.Certificate{}, fmt.Errorf("making a key: %w", err)
		}
	}
	cert, err := selfSigned(signing)
	if err != nil {
		return tls.Certificate{}, err
	}
	c.made, c.key, c.cert = true, key, cert
	return cert, nil
}
