package identity

import (
	"bytes"
	"compress/flate"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/meshd/meshd/catalog"
)

// A token's text is tokenPrefix and, in base64url without padding (RFC 4648,
// section 5):
//
//	2 bytes   how many bytes follow, so that a truncated paste is known for one
//	32        the seed of the invite's key; the invite's id follows from it
//	32, 64    author and signature of the token record
//	n         its body: uvarint length, and DEFLATE with inviteDictionary
//	n         doors: a byte for their number; of each a byte for its length, and its text
//	4         the first bytes of the SHA-256 of all that
//
// The record's body is kept to the byte, as the signature is over its bytes. It
// nearly always looks like the dictionary, so about 50 bytes are left of 200.
const (
	tokenPrefix   = "meshd1."
	tokenChecksum = 4
	maxTokenText  = 4096 // characters
	maxInviteBody = 2048 // bytes
	maxAddresses  = 8
	maxAddress    = 255 // bytes: the longest DNS name is 253
)

// ErrToken is wrapped by the errors of [ParseToken].
var ErrToken = errors.New("not a usable token")

// Text is the token to hand over. It is a secret: who has it can join.
func (t Token) Text() (string, error) {
	body, err := deflate(t.Record.Body, inviteDictionary(t.Invite.Key))
	if err != nil {
		return "", fmt.Errorf("encoding a token: %w", err)
	}
	payload := make([]byte, 2, 256)
	payload = append(payload, t.secret.Seed()...)
	payload = append(payload, t.Record.Author...)
	payload = append(payload, t.Record.Signature...)
	payload = binary.AppendUvarint(payload, uint64(len(body)))
	payload = append(payload, body...)
	payload = append(payload, byte(len(t.Addresses)))
	for _, address := range t.Addresses {
		payload = append(payload, byte(len(address)))
		payload = append(payload, address...)
	}
	binary.BigEndian.PutUint16(payload, uint16(len(payload)-2+tokenChecksum))
	sum := sha256.Sum256(payload)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(payload, sum[:tokenChecksum]...)), nil
}

// ParseToken reads a token's text; spaces and line breaks in it do not matter. It checks
// that the token is whole and signed, not that the signer was one of the mesh.
// Its errors wrap ErrToken and never show the token.
func ParseToken(text string) (Token, error) {
	payload, err := unwrapToken(text)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	token, err := readToken(payload)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return token, nil
}

// unwrapToken undoes prefix, base64, length and checksum.
func unwrapToken(text string) ([]byte, error) {
	const again = "copy the whole of it again"
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '"' || r == '\'' {
			return -1
		}
		return r
	}, text)
	if len(text) > maxTokenText {
		return nil, errors.New("it is too long for one: " + again)
	}
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		if strings.HasPrefix(text, "meshd") && strings.Contains(text, ".") {
			return nil, errors.New("a newer meshd made it: update meshd on this host")
		}
		return nil, fmt.Errorf("tokens begin with %q: %s", tokenPrefix, again)
	}
	whole := len(rest)
	if whole%4 == 1 {
		whole-- // a single character of a group is no byte: the text is cut off here
	}
	payload, err := base64.RawURLEncoding.DecodeString(rest[:whole])
	if err != nil {
		return nil, errors.New("a character in it cannot be in one: " + again)
	}
	if len(payload) < 2 {
		return nil, errors.New("it is cut off: " + again)
	}
	want := 2 + int(binary.BigEndian.Uint16(payload))
	switch chars := base64.RawURLEncoding.EncodedLen(want); {
	case len(rest) < chars:
		return nil, fmt.Errorf("it is cut off, %d of %d characters are here: %s", len(tokenPrefix)+len(rest), len(tokenPrefix)+chars, again)
	case len(rest) > chars:
		return nil, fmt.Errorf("%d characters too many are at its end: %s", len(rest)-chars, again)
	}
	end := len(payload) - tokenChecksum
	if end < 2 {
		return nil, errors.New("it is cut off: " + again)
	}
	sum := sha256.Sum256(payload[:end])
	if !bytes.Equal(sum[:tokenChecksum], payload[end:]) {
		return nil, errors.New("a character in it was changed: " + again)
	}
	return payload[2:end], nil
}

// readToken reads what lies between length and checksum.
func readToken(payload []byte) (Token, error) {
	malformed := errors.New("whatever made it was not meshd: ask for a new one")
	if len(payload) < ed25519.SeedSize+ed25519.PublicKeySize+ed25519.SignatureSize {
		return Token{}, malformed
	}
	in := bytes.NewBuffer(payload)
	seed, author, signature := in.Next(ed25519.SeedSize), in.Next(ed25519.PublicKeySize), in.Next(ed25519.SignatureSize)
	size, err := binary.ReadUvarint(in)
	if err != nil || size > uint64(in.Len()) {
		return Token{}, malformed
	}
	secret := ed25519.NewKeyFromSeed(seed)
	public := secret.Public().(ed25519.PublicKey)
	body, err := inflate(in.Next(int(size)), inviteDictionary(public))
	if err != nil {
		return Token{}, malformed
	}
	token := Token{secret: secret, Record: catalog.Record{
		Kind: catalog.KindToken, Body: body, Author: bytes.Clone(author), Signature: bytes.Clone(signature),
	}}
	count, err := in.ReadByte()
	if err != nil {
		return Token{}, malformed
	}
	for range count {
		length, err := in.ReadByte()
		if err != nil || int(length) > in.Len() {
			return Token{}, malformed
		}
		token.Addresses = append(token.Addresses, string(in.Next(int(length))))
	}
	if in.Len() != 0 || checkAddresses(token.Addresses) != nil {
		return Token{}, malformed
	}
	if err := token.Record.Verify(); err != nil {
		return Token{}, fmt.Errorf("its signature: %w", err)
	}
	token.Invite, err = catalog.Decode[catalog.Invite](token.Record)
	if err != nil || !public.Equal(token.Invite.Key) || token.Invite.ID != catalog.InviteIDOf(public) {
		return Token{}, malformed
	}
	return token, nil
}

// inviteDictionary is what an invite's body looks like. It is part of the format:
// whoever changes it makes every token of before unreadable.
func inviteDictionary(key ed25519.PublicKey) []byte {
	return fmt.Appendf(nil, `,"signer":true}{"id":"%s","mesh":"","key":"%s","created":170000,"expires":170000,"uses":1}`,
		catalog.InviteIDOf(key), base64.StdEncoding.EncodeToString(key))
}

func deflate(data, dictionary []byte) ([]byte, error) {
	var out bytes.Buffer
	writer, err := flate.NewWriterDict(&out, flate.BestCompression, dictionary)
	if err != nil {
		return nil, err
	}
	if _, err := writer.Write(data); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func inflate(data, dictionary []byte) ([]byte, error) {
	in := bytes.NewReader(data)
	out, err := io.ReadAll(io.LimitReader(flate.NewReaderDict(in, dictionary), maxInviteBody+1))
	if err != nil {
		return nil, err
	}
	if len(out) > maxInviteBody || in.Len() != 0 {
		return nil, errors.New("too long")
	}
	return out, nil
}

// checkAddresses keeps out what cannot be HOST or HOST:PORT. Whether it is one is seen
// when it is dialled.
func checkAddresses(addresses []string) error {
	if len(addresses) > maxAddresses {
		return fmt.Errorf("%d addresses are too many, at most %d fit", len(addresses), maxAddresses)
	}
	for _, address := range addresses {
		bad := strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' })
		if bad || address == "" || len(address) > maxAddress {
			return fmt.Errorf("%.60q is no address", address)
		}
	}
	return nil
}
