package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meshd/meshd/peers/identity"
)

func key(fill byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{fill}, ed25519.SeedSize))
}

func TestRecoveryCodeRoundTrip(t *testing.T) {
	shape := regexp.MustCompile(`^([0-9A-HJKMNP-TV-Z]{4}-){13}[0-9A-HJKMNP-TV-Z]{4}$`)
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), ed25519.SeedSize, ed25519.SeedSize).Draw(t, "seed")
		want := ed25519.NewKeyFromSeed(seed)
		code := identity.EncodeRecoveryCode(want)
		if !shape.MatchString(code) {
			t.Fatalf("code %s is not 14 groups of 4", code)
		}
		for _, typed := range []string{
			code,
			strings.ToLower(code),
			strings.ReplaceAll(code, "-", " "),
			strings.ReplaceAll(code, "-", ""),
			"  " + strings.ReplaceAll(code, "0", "o") + "\n",
			strings.ReplaceAll(strings.ReplaceAll(code, "0", "O"), "1", "l"),
			strings.ReplaceAll(code, "1", "I"),
		} {
			got, err := identity.DecodeRecoveryCode(typed)
			if err != nil || !got.Equal(want) {
				t.Fatalf("decoding %q: %v", typed, err)
			}
		}
	})
}

func TestRecoveryCodeMistakes(t *testing.T) {
	code := identity.EncodeRecoveryCode(key(7))
	swapped := []byte(code)
	for i := range swapped[:len(swapped)-1] {
		if swapped[i] != swapped[i+1] && swapped[i] != '-' && swapped[i+1] != '-' {
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			break
		}
	}
	for name, test := range map[string]struct{ code, want string }{
		"empty":      {"", "0 characters"},
		"cut off":    {code[:len(code)-5], "52 characters, not 56"},
		"twice":      {code + code, "112 characters"},
		"U":          {"U" + code[1:], "character 1 (group 1)"},
		"not ASCII":  {code[:len(code)-1] + "ß", "group 14"},
		"swapped":    {string(swapped), "changed places"},
		"wrong char": {flip(code), "a character is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := identity.DecodeRecoveryCode(test.code)
			if !errors.Is(err, identity.ErrRecoveryCode) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
			if err != nil && len(test.code) > 8 && strings.Contains(err.Error(), test.code[5:9]) {
				t.Errorf("error %v shows the code", err)
			}
		})
	}
}

func flip(code string) string {
	last := byte('2')
	if code[len(code)-1] == last {
		last = '3'
	}
	return code[:len(code)-1] + string(last)
}
