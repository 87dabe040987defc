package identity_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/identity"
)

const now = catalog.Millis(1_764_000_000_000)

// founder makes a mesh of one node and its view.
func founder(t *testing.T) (*identity.Identity, identity.Founding, *catalog.Catalog) {
	t.Helper()
	id := create(t, open(t, stateDir(t)))
	founding, err := id.Found(now)
	must(t, err)
	c := catalog.New(founding.Mesh)
	if _, rejected := c.Merge(now, founding.Records...); rejected != nil {
		t.Fatalf("the founding records are rejected: %v", rejected)
	}
	return id, founding, c
}

func TestFound(t *testing.T) {
	id, founding, c := founder(t)
	view := c.View()
	if len(view.Members) != 1 || view.Members[0].ID != id.ID() || !view.Members[0].Signer || view.Members[0].Evicted {
		t.Fatalf("members %+v, want the founder as a signer", view.Members)
	}
	if len(c.Records()) != len(founding.Records) {
		t.Errorf("%d of %d founding records were accepted", len(c.Records()), len(founding.Records))
	}
	mesh, err := identity.DecodeRecoveryCode(founding.RecoveryCode)
	must(t, err)
	if catalog.MeshIDOf(mesh.Public().(ed25519.PublicKey)) != founding.Mesh {
		t.Error("the recovery code is not the mesh key's")
	}
}

func newToken(t *testing.T, req identity.TokenRequest) (identity.Token, string) {
	t.Helper()
	id, _, c := founder(t)
	token, err := id.NewToken(c.View(), req)
	must(t, err)
	text, err := token.Text()
	must(t, err)
	return token, text
}

func TestTokenRoundTrip(t *testing.T) {
	for name, req := range map[string]identity.TokenRequest{
		"default": {Now: now},
		"all":     {Now: now, TTL: time.Hour, Uses: 3, Signer: true, Addresses: []string{"192.0.2.7", "[2001:db8::7]:7946"}},
	} {
		t.Run(name, func(t *testing.T) {
			token, text := newToken(t, req)
			if limit := 300 + 2*len(strings.Join(req.Addresses, "")); len(text) > limit {
				t.Errorf("the text has %d characters, more than %d", len(text), limit)
			}
			for _, pasted := range []string{text, " " + text + "\n", text[:80] + "\n  " + text[80:], `"` + text + `"`} {
				got, err := identity.ParseToken(pasted)
				must(t, err)
				if diff := cmp.Diff(token, got, cmpopts.IgnoreUnexported(identity.Token{}), cmpopts.EquateEmpty()); diff != "" {
					t.Error(diff)
				}
				node := key(9).Public().(ed25519.PublicKey)
				if !ed25519.Verify(got.Invite.Key, catalog.InviteMessage(got.Mesh(), node), got.SignInvite(node)) {
					t.Error("the secret was lost on the way")
				}
			}
			want := 24 * time.Hour
			if req.TTL != 0 {
				want = req.TTL
			}
			if token.Invite.Expires != now.Add(want) {
				t.Errorf("it expires at %s", token.Invite.Expires.Time())
			}
		})
	}
}

func TestTokenMistakes(t *testing.T) {
	_, text := newToken(t, identity.TokenRequest{Now: now})
	for name, test := range map[string]struct{ text, want string }{
		"empty":     {"", `begin with "meshd1."`},
		"else":      {"SWMTKN-1-abc", `begin with "meshd1."`},
		"newer":     {"meshd2." + text[7:], "newer meshd"},
		"prefix":    {"meshd1.", "cut off"},
		"twice":     {text + text[7:], "too many"},
		"character": {text[:100] + "*" + text[101:], "cannot be in one"},
		"too long":  {text + strings.Repeat("A", 5000), "too long"},
		"changed":   {text[:100] + other(text[100]) + text[101:], "changed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := identity.ParseToken(test.text)
			if !errors.Is(err, identity.ErrToken) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
		})
	}
	for n := range len(text) {
		if _, err := identity.ParseToken(text[:n]); !errors.Is(err, identity.ErrToken) {
			t.Fatalf("the first %d characters: error %v", n, err)
		} else if n >= 12 && !strings.Contains(err.Error(), fmt.Sprintf("%d of %d characters", n, len(text))) {
			t.Fatalf("the first %d characters: %q does not say that it is cut off", n, err)
		}
	}
}

func other(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

func TestTokenLimits(t *testing.T) {
	id, _, c := founder(t)
	for name, req := range map[string]identity.TokenRequest{
		"negative TTL":  {TTL: -time.Hour},
		"long TTL":      {TTL: 366 * 24 * time.Hour},
		"negative uses": {Uses: -1},
		"many doors":    {Addresses: make([]string, 9)},
		"bad door":      {Addresses: []string{"a b"}},
	} {
		if _, err := id.NewToken(c.View(), req); err == nil {
			t.Errorf("%s: a token was made", name)
		}
	}
	stranger := create(t, open(t, stateDir(t)))
	if _, err := stranger.NewToken(c.View(), identity.TokenRequest{Now: now}); !errors.Is(err, identity.ErrNotSigner) {
		t.Errorf("a node that is no signer made a token: %v", err)
	}
}

func TestTokenSecretIsNotPrinted(t *testing.T) {
	token, text := newToken(t, identity.TokenRequest{Now: now})
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token)
	for _, printed := range []string{fmt.Sprint(token), fmt.Sprintf("%+v", token), fmt.Sprintf("%#v", token), log.String()} {
		if !strings.Contains(printed, token.Invite.ID) || len(printed) > 150 || strings.Contains(printed, text[:20]) {
			t.Errorf("printed as %q", printed)
		}
	}
}

// With the right checksum too, nothing of what is signed can be changed.
func TestForgedToken(t *testing.T) {
	token, a := newToken(t, identity.TokenRequest{Now: now})
	rapid.Check(t, func(r *rapid.T) {
		raw, err := base64.RawURLEncoding.DecodeString(a[7:])
		if err != nil {
			r.Fatal(err)
		}
		raw[rapid.IntRange(2, len(raw)-5).Draw(r, "at")] ^= byte(rapid.IntRange(1, 255).Draw(r, "bits"))
		got, err := identity.ParseToken("meshd1." + identity.Reseal(raw))
		if err != nil && !errors.Is(err, identity.ErrToken) {
			r.Fatalf("error %v does not wrap ErrToken", err)
		}
		// The compressed body ends in bits that mean nothing.
		if err == nil && !cmp.Equal(got.Record, token.Record) {
			r.Fatalf("a forged token was taken: %+v", got.Record)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	id, err := identity.Generate()
	if err != nil {
		f.Fatal(err)
	}
	founding, err := id.Found(now)
	if err != nil {
		f.Fatal(err)
	}
	c := catalog.New(founding.Mesh)
	c.Merge(now, founding.Records...)
	token, err := id.NewToken(c.View(), identity.TokenRequest{Now: now, Addresses: []string{"192.0.2.7"}})
	if err != nil {
		f.Fatal(err)
	}
	text, err := token.Text()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(text[7:])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{})
	f.Add(make([]byte, 200))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, text := range []string{
			string(raw),
			"meshd1." + base64.RawURLEncoding.EncodeToString(raw),
			"meshd1." + identity.Reseal(raw), // past length and checksum
		} {
			token, err := identity.ParseToken(text)
			if err != nil {
				if !errors.Is(err, identity.ErrToken) {
					t.Fatalf("error %v does not wrap ErrToken", err)
				}
				continue
			}
			again, err := token.Text()
			if err != nil {
				t.Fatal(err)
			}
			if parsed, err := identity.ParseToken(again); err != nil || parsed.Invite.ID != token.Invite.ID {
				t.Fatalf("a token that was read cannot be written and read again: %v", err)
			}
		}
	})
}
