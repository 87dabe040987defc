package door

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/peers/identity"
)

const (
	dialTime     = 5 * time.Second
	exchangeTime = 10 * time.Second // for TLS, welcome and request
	decideTime   = 30 * time.Second // until the member has decided
	attempts     = 10               // at a door that closes before it says anything: it may be full
	firstPause   = 250 * time.Millisecond
	longestPause = time.Second
)

// JoinRequest is what a host needs to join.
type JoinRequest struct {
	Addresses []string // of members, HOST or HOST:PORT, tried in this order; if empty, the token's
	Token     identity.Token
	Identity  *identity.Identity
	Document  catalog.Record // KindDocument: the node's first, without endpoints
	Now       func() catalog.Millis
}

// Join asks the members one after the other to let this host in, until one does. Nothing is
// stored. The error is one line: what each address said and what to do; it wraps the
// refusals (ErrExpired, …) for errors.Is.
func Join(ctx context.Context, req JoinRequest) (Response, error) {
	addresses := req.Addresses
	if len(addresses) == 0 {
		addresses = req.Token.Addresses
	}
	if len(addresses) == 0 {
		return Response{}, errors.New("joining: no address of a member was given and the token names none: add the address of any member")
	}
	targets := make([]string, 0, len(addresses))
	for _, address := range addresses {
		target, err := splitAddress(address)
		if err != nil {
			return Response{}, fmt.Errorf("joining: %w", err)
		}
		targets = append(targets, target)
	}
	join := joiner{JoinRequest: req}
	if err := join.encode(); err != nil {
		return Response{}, err
	}
	var failed JoinError
	for _, target := range targets {
		response, err := join.tryDoor(ctx, target)
		if err == nil {
			return response, nil
		}
		failed = append(failed, AddressError{target, err})
		if ctx.Err() != nil {
			return Response{}, fmt.Errorf("%w: %w", ctx.Err(), failed)
		}
	}
	return Response{}, failed
}

// joiner is one call of Join.
type joiner struct {
	JoinRequest
	request []byte // the encoded Request
}

func (j *joiner) encode() error {
	var err error
	j.request, err = json.Marshal(Request{
		Node: j.Identity.Public(), Token: j.Token.Record,
		Invite: j.Token.SignInvite(j.Identity.Public()), Document: j.Document,
	})
	if err != nil {
		return fmt.Errorf("joining: encoding the request: %w", err)
	}
	return nil
}

// tryDoor asks one member. A door with too many guests closes at once, so that is tried a
// few times. Asking twice does no harm: a member that let us in says so again.
func (j *joiner) tryDoor(ctx context.Context, target string) (Response, error) {
	pause := firstPause
	response, err := j.ask(ctx, target)
	for attempt := 1; closedEarly(err) && attempt < attempts; attempt++ {
		// A random part keeps hosts that were turned away together from coming back together.
		wait(ctx, pause/2+rand.N(pause))
		pause = min(2*pause, longestPause)
		again, failed := j.ask(ctx, target)
		if ctx.Err() != nil && failed != nil {
			return Response{}, err // what the door did says more than that we gave up
		}
		response, err = again, failed
	}
	return response, err
}

func (j *joiner) ask(ctx context.Context, target string) (Response, error) {
	raw, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", target)
	if err != nil {
		return Response{}, &stageError{stageDial, err}
	}
	defer func() { _ = raw.Close() }() // all that matters was read by then
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn := tls.Client(raw, clientTLS())
	if err := raw.SetDeadline(time.Now().Add(exchangeTime)); err != nil {
		return Response{}, &stageError{stageTLS, err}
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		return Response{}, &stageError{stageTLS, err}
	}
	door, greeting, err := j.greet(conn)
	if err != nil {
		return Response{}, err
	}
	if err := j.send(conn); err != nil {
		return Response{}, err
	}
	return j.receive(conn, door, greeting)
}

// greet says which mesh we look for and checks that the door is a member's of it.
func (j *joiner) greet(conn *tls.Conn) (ed25519.PublicKey, welcome, error) {
	key, err := doorKey(conn.ConnectionState())
	if err != nil {
		return nil, welcome{}, &stageError{stageTLS, err}
	}
	mesh := j.Token.Mesh()
	if err := writeFrame(conn, hello{Version: protocolVersion, Mesh: mesh}, maxHello); err != nil {
		return nil, welcome{}, &stageError{stageTalk, err}
	}
	var greeting welcome
	if err := readFrame(conn, &greeting, maxWelcome); err != nil {
		return nil, welcome{}, &stageError{stageTalk, err}
	}
	if greeting.Code != "" {
		return nil, welcome{}, &Error{Code: greeting.Code}
	}
	if err := verifyMember(mesh, key, greeting.Chain, j.Now()); err != nil {
		return nil, welcome{}, fmt.Errorf("it cannot prove that it is a member of the token's mesh: use another address%s: %w",
			j.clockHint(greeting.Time), err)
	}
	return key, greeting, nil
}

func (j *joiner) send(conn *tls.Conn) error {
	binding, err := sessionBinding(conn)
	if err != nil {
		return err
	}
	signed := signedRequest{
		Request: j.request,
		Proof:   ed25519.Sign(j.Identity.Key(), proofMessage(binding, j.request)),
	}
	if err := writeFrame(conn, signed, maxRequest); err != nil {
		return &stageError{stageTalk, err}
	}
	return nil
}

// receive takes the answer and checks that it makes this node a member.
func (j *joiner) receive(conn *tls.Conn, door ed25519.PublicKey, greeting welcome) (Response, error) {
	if err := conn.SetDeadline(time.Now().Add(decideTime)); err != nil {
		return Response{}, &stageError{stageTalk, err}
	}
	var head answer
	if err := readFrame(conn, &head, maxAnswer); err != nil {
		return Response{}, &stageError{stageTalk, err}
	}
	if head.Code != "" {
		return Response{}, j.refused(head)
	}
	end := time.Now().Add(answerTime)
	records, err := receiveRecords(conn, func() error {
		deadline := time.Now().Add(frameTime)
		if deadline.After(end) {
			deadline = end
		}
		return conn.SetDeadline(deadline)
	})
	if err != nil {
		return Response{}, &stageError{stageTalk, err}
	}
	if err := j.checkCertificate(head.Certificate); err != nil {
		return Response{}, fmt.Errorf("it answered with a certificate that is not valid here: use another address: %w", err)
	}
	proof := append([]catalog.Record{head.Certificate}, greeting.Chain...)
	proof = append(proof, records...)
	if err := verifyMember(j.Token.Mesh(), j.Identity.Public(), proof, j.Now()); err != nil {
		return Response{}, fmt.Errorf("its answer does not make this host a member: use another address%s: %w", j.clockHint(head.Time), err)
	}
	return Response{
		Certificate: head.Certificate, Records: records,
		Observed: head.Observed, Sponsor: catalog.NodeIDOf(door), Ahead: j.ahead(head.Time),
	}, nil
}

func (j *joiner) checkCertificate(record catalog.Record) error {
	if err := record.Verify(); err != nil {
		return err
	}
	certificate, err := catalog.Decode[catalog.Certificate](record)
	if err != nil {
		return err
	}
	if !j.Identity.Public().Equal(certificate.Node) || certificate.Mesh != j.Token.Mesh() {
		return errors.New("it is for another node or mesh")
	}
	return nil
}

// refused adds to a refusal for the time's sake by how much the clocks differ, if they do.
func (j *joiner) refused(head answer) *Error {
	refused := &Error{Code: head.Code, Detail: head.Detail}
	if hint := j.clockDifference(head.Time); hint != "" && (head.Code == CodeExpired || head.Code == CodeClock) {
		refused.Detail = hint
	}
	return refused
}

// MaxClockDifference is what two clocks may differ without it being worth a word.
const MaxClockDifference = time.Minute

// ahead is how far this clock is ahead of the member's, or 0 if that is not worth a word.
func (j *joiner) ahead(theirs catalog.Millis) time.Duration {
	difference := time.Duration(j.Now()-theirs) * time.Millisecond
	if difference.Abs() <= MaxClockDifference {
		return 0
	}
	return difference
}

func (j *joiner) clockDifference(theirs catalog.Millis) string {
	if j.ahead(theirs) == 0 {
		return ""
	}
	const layout = "2006-01-02 15:04 MST"
	return fmt.Sprintf("the clocks differ: here it is %s, at the member %s: set the wrong one first",
		j.Now().Time().Format(layout), theirs.Time().Format(layout))
}

func (j *joiner) clockHint(theirs catalog.Millis) string {
	if hint := j.clockDifference(theirs); hint != "" {
		return " (" + hint + ")"
	}
	return ""
}
