package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// A recovery code is the mesh key's seed (32 bytes, RFC 8032) and three bytes of
// checksum, in Crockford's base32 (https://www.crockford.com/base32.html): 14
// groups of 4 characters, without I, L, O and U, which people misread.
const (
	recoveryAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	recoveryGroup    = 4
	recoveryChecksum = 3 // bytes; one in 16 million wrong codes passes
	recoveryLength   = (ed25519.SeedSize + recoveryChecksum) * 8 / 5
)

var recoveryEncoding = base32.NewEncoding(recoveryAlphabet).WithPadding(base32.NoPadding)

// ErrRecoveryCode is wrapped by all errors of [DecodeRecoveryCode].
var ErrRecoveryCode = errors.New("not a recovery code")

// EncodeRecoveryCode writes a mesh private key as a code that a person can copy
// by hand: groups of four characters with "-" between.
func EncodeRecoveryCode(mesh ed25519.PrivateKey) string {
	seed := mesh.Seed()
	text := recoveryEncoding.EncodeToString(append(seed, recoverySum(seed)...))
	var code strings.Builder
	for i := 0; i < len(text); i += recoveryGroup {
		if i > 0 {
			code.WriteByte('-')
		}
		code.WriteString(text[i : i+recoveryGroup])
	}
	return code.String()
}

// DecodeRecoveryCode reads what [EncodeRecoveryCode] wrote and a person typed:
// any case, with or without spaces and dashes, O for 0, I and L for 1. Its errors
// say what looks wrong, never the code.
func DecodeRecoveryCode(code string) (ed25519.PrivateKey, error) {
	text, err := normalizeRecovery(code)
	if err != nil {
		return nil, err
	}
	if len(text) != recoveryLength {
		return nil, fmt.Errorf("%w: it has %d characters, not %d (%d groups of %d): compare it with what `meshd init` showed",
			ErrRecoveryCode, len(text), recoveryLength, recoveryLength/recoveryGroup, recoveryGroup)
	}
	raw, err := recoveryEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecoveryCode, err)
	}
	seed, sum := raw[:ed25519.SeedSize], raw[ed25519.SeedSize:]
	if string(sum) != string(recoverySum(seed)) {
		return nil, fmt.Errorf("%w: a character is wrong or two have changed places: compare it with what `meshd init` showed", ErrRecoveryCode)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func normalizeRecovery(code string) (string, error) {
	var text strings.Builder
	position := 0
	for _, c := range strings.ToUpper(code) {
		switch c {
		case ' ', '\t', '\r', '\n', '-', '–', '—':
			continue
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		}
		position++
		if !strings.ContainsRune(recoveryAlphabet, c) {
			return "", fmt.Errorf("%w: character %d (group %d) cannot be in one: they have digits and letters except U",
				ErrRecoveryCode, position, (position-1)/recoveryGroup+1)
		}
		text.WriteRune(c)
	}
	return text.String(), nil
}

func recoverySum(seed []byte) []byte {
	sum := sha256.Sum256(append([]byte("meshd recovery code v1\x00"), seed...))
	return sum[:recoveryChecksum]
}
