package door

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/meshd/meshd/catalog"
)

// Code says why a door did not let a host in. It travels to the client.
type Code string

// The codes that a door answers with.
const (
	CodeExpired       Code = "expired"
	CodeUsedUp        Code = "used_up"
	CodeRevoked       Code = "revoked"
	CodeUnknownSigner Code = "unknown_signer"
	CodeWrongMesh     Code = "wrong_mesh"
	CodeNotMember     Code = "not_member"
	CodeEvicted       Code = "evicted"
	CodeClock         Code = "clock"
	CodeBadRequest    Code = "bad_request"
	CodeVersion       Code = "version"
	CodeInternal      Code = "internal"
	CodeNoSigner      Code = "no_signer"
	CodeBusy          Code = "busy"
)

// Error is a door's refusal. Two are the same to errors.Is if they have one Code.
type Error struct {
	Code   Code
	Detail string // shown to the joiner behind the code's own text; may be empty
}

// Refusals, for errors.Is.
var (
	ErrExpired       = &Error{Code: CodeExpired}
	ErrUsedUp        = &Error{Code: CodeUsedUp}
	ErrRevoked       = &Error{Code: CodeRevoked}
	ErrUnknownSigner = &Error{Code: CodeUnknownSigner}
	ErrWrongMesh     = &Error{Code: CodeWrongMesh}
	ErrNotMember     = &Error{Code: CodeNotMember}
	ErrEvicted       = &Error{Code: CodeEvicted}
	ErrClock         = &Error{Code: CodeClock}
	ErrBadRequest    = &Error{Code: CodeBadRequest}
	ErrVersion       = &Error{Code: CodeVersion}
	ErrInternal      = &Error{Code: CodeInternal}
	ErrNoSigner      = &Error{Code: CodeNoSigner}
	ErrBusy          = &Error{Code: CodeBusy}
)

// codeTexts are what a person reads: what is wrong and what to do. The client has them, so
// that no host on the way can put words into its mouth.
var codeTexts = map[Code]string{
	CodeExpired:       "the token has expired: make a new one with `meshd token create`",
	CodeUsedUp:        "the token has been used as often as it may be: make a new one with `meshd token create`",
	CodeRevoked:       "the token was taken back: make a new one with `meshd token create`",
	CodeUnknownSigner: "the member does not know who signed the token, or it may not any more: make a new one with `meshd token create`, or try another member",
	CodeWrongMesh:     "that host is in another mesh than the token is for: use an address or a token of the right mesh",
	CodeNotMember:     "that host belongs to no mesh yet: run `meshd init` or `meshd join` there first",
	CodeEvicted:       "this host was evicted from the mesh and its key never gets back in: move its state directory away, then join as a new node",
	CodeClock:         "this host's clock is more than a day ahead of the member's: set the wrong one first",
	CodeBadRequest:    "the member did not understand the request: compare `meshd version` on both hosts",
	CodeVersion:       "the two hosts speak different versions of the join protocol: update the older meshd",
	CodeNoSigner:      "that host is no signer, only a signer lets hosts in without a token, and none was reached: use the address of one (`meshd members` shows them there), or a token",
	CodeBusy:          "too many hosts ask to be let in there right now: try again in a minute",
	CodeInternal:      "the member failed to let this host in: its log says why",
}

// admissionCodes says which refusals stand for what catalog.CheckAdmission finds.
var admissionCodes = []struct {
	err  error
	code Code
}{
	{catalog.ErrExpired, CodeExpired},
	{catalog.ErrUsedUp, CodeUsedUp},
	{catalog.ErrRevoked, CodeRevoked},
	{catalog.ErrUnknownSigner, CodeUnknownSigner},
	{catalog.ErrEvicted, CodeEvicted},
	{catalog.ErrOtherMesh, CodeWrongMesh},
	{catalog.ErrFuture, CodeClock},
	{catalog.ErrInvite, CodeBadRequest},
	{catalog.ErrSignature, CodeBadRequest},
	{catalog.ErrMalformed, CodeBadRequest},
}

// refusalOf finds what the joiner may know of an error.
func refusalOf(err error) *Error {
	var refused *Error
	if errors.As(err, &refused) {
		return refused
	}
	for _, known := range admissionCodes {
		if errors.Is(err, known.err) {
			return &Error{Code: known.code}
		}
	}
	return ErrInternal
}

// Error is one line that says what to do next.
func (e *Error) Error() string {
	text, known := codeTexts[e.Code]
	if !known {
		text = fmt.Sprintf("refused for a reason that this version does not know (%s)", plain(string(e.Code), 40))
	}
	if e.Detail != "" {
		text += " (" + plain(e.Detail, 200) + ")"
	}
	return text
}

// Is says whether target is a refusal with the same code.
func (e *Error) Is(target error) bool {
	var other *Error
	return errors.As(target, &other) && other.Code == e.Code
}

// plain makes of what another host sent something that may be printed: one line,
// without control characters, not long.
func plain(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > limit {
		text = string(runes[:limit]) + "…"
	}
	return text
}
