package door

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/meshd/meshd/catalog"
)

// requestTime is how long a client may take from being accepted until its request is here.
const requestTime = 10 * time.Second

const (
	maxConns      = 64               // at the same time
	maxConnsPerIP = 16               // of one IPv4 address or one IPv6 /64
	admitTime     = 20 * time.Second // for the Admitter
	frameTime     = 10 * time.Second // for each frame of the answer
	answerTime    = 2 * time.Minute  // for the whole answer
	lingerTime    = 2 * time.Second  // for the client to close after that
)

// Admitter decides. The agent is one.
type Admitter interface {
	// Admit lets the host in or returns the reason why not: a *Error, whose Code and
	// Detail the joiner sees, an error of catalog.CheckAdmission, or any other,
	// which only the log sees. The request is well formed and was sent by the holder
	// of its Node key; whether its token is good is for Admit to check, see Sponsor.
	// When it returns, the certificate must be in the catalog. It may be called
	// at the same time, and again for a host that did not get the first answer.
	Admit(ctx context.Context, req Request, remote netip.AddrPort) (Response, error)
}

// Credentials are what a server shows of its node.
type Credentials struct {
	Key   ed25519.PrivateKey // the node's identity key
	Mesh  catalog.MeshID     // empty: no member; the door says so to everybody
	Chain []catalog.Record   // see Chain
	// Signer: it may let in hosts without a token, see Server.Waiting.
	Signer bool
	// Signers is, for a member that is none, where the doors of signers are: newcomers without a token go on to them.
	Signers []netip.AddrPort
}

// Options are a server's parts. All are needed.
type Options struct {
	Credentials func() Credentials // asked for each connection; quick
	Admitter    Admitter
	Now         func() catalog.Millis
	Logger      *slog.Logger
}

// Server is a join door.
type Server struct {
	opts        Options
	certs       certCache
	requestTime time.Duration
	room        room

	mu    sync.Mutex // guards what follows
	conns map[net.Conn]netip.Prefix
	perIP map[netip.Prefix]int
}

// NewServer makes a server. It does nothing until Serve is called.
func NewServer(opts Options) *Server {
	return &Server{opts: opts, requestTime: requestTime, conns: map[net.Conn]netip.Prefix{}, perIP: map[netip.Prefix]int{}}
}

// String names the task.
func (s *Server) String() string { return "join door" }

// Serve answers on listener until ctx ends, and closes it. Then it returns nil;
// connections that are open are cut.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	context.AfterFunc(ctx, func() {
		_ = listener.Close()
		s.closeAll()
	})
	for backoff := time.Duration(0); ; {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			// Running out of files passes; a closed listener does not.
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("join door: %w", err)
			}
			backoff = min(max(2*backoff, 10*time.Millisecond), time.Second)
			s.opts.Logger.Warn("join door cannot accept a connection", "error", err, "again_in", backoff)
			wait(ctx, backoff)
			continue
		}
		backoff = 0
		if !s.enter(conn) {
			_ = conn.Close()
			continue
		}
		open.Go(func() {
			defer s.leave(conn)
			s.handle(ctx, conn)
		})
	}
}

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// enter counts a connection, or says that there are too many.
func (s *Server) enter(conn net.Conn) bool {
	source := sourceOf(remoteOf(conn))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxConns || s.perIP[source] >= maxConnsPerIP {
		return false
	}
	s.conns[conn] = source
	s.perIP[source]++
	return true
}

func (s *Server) leave(conn net.Conn) {
	_ = conn.Close() // all that had to arrive was waited for
	s.mu.Lock()
	defer s.mu.Unlock()
	source := s.conns[conn]
	delete(s.conns, conn)
	if s.perIP[source]--; s.perIP[source] == 0 {
		delete(s.perIP, source)
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	conns := make([]net.Conn, 0, len(s.conns))
	for conn := range s.conns {
		conns = append(conns, conn)
	}
	s.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// sourceOf is what a limit counts: who has one IPv6 address has all of its /64.
func sourceOf(remote netip.AddrPort) netip.Prefix {
	bits := 32
	if remote.Addr().Is6() {
		bits = 64
	}
	prefix, _ := remote.Addr().WithZone("").Prefix(bits)
	return prefix
}

func remoteOf(conn net.Conn) netip.AddrPort {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	remote := addr.AddrPort()
	return netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
}

// handle serves one connection. What strangers send is logged at debug level only, or
// they could fill the log.
func (s *Server) handle(ctx context.Context, raw net.Conn) {
	remote := remoteOf(raw)
	log := s.opts.Logger.With("remote", remote.String())
	if err := raw.SetDeadline(time.Now().Add(s.requestTime)); err != nil {
		return
	}
	creds := s.opts.Credentials()
	cert, err := s.certs.of(creds.Key)
	if err != nil {
		log.Error("join door has no certificate", "error", err)
		return
	}
	conn := tls.Server(raw, serverTLS(cert))
	first, err := s.greet(ctx, conn)
	if err != nil {
		log.Debug("join door turned a connection away", "error", err)
		return
	}
	if first.Pair != nil {
		s.pair(ctx, conn, first, creds, log)
		return
	}
	req, err := s.receive(conn, first, creds)
	if err != nil {
		log.Debug("join door turned a connection away", "error", err)
		if refused := (*Error)(nil); errors.As(err, &refused) {
			s.refuse(conn, refused)
		}
		return
	}
	s.admit(ctx, conn, req, log)
}

// greet waits for the client's first words.
func (s *Server) greet(ctx context.Context, conn *tls.Conn) (hello, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return hello{}, fmt.Errorf("TLS: %w", err)
	}
	if conn.ConnectionState().NegotiatedProtocol != alpn {
		return hello{}, errors.New("the client does not speak the join protocol")
	}
	var first hello
	return first, readFrame(conn, &first, maxHello)
}

// receive goes through the protocol until the request is here and known to come from the
// holder of its key, in this session. Refusals that the client waits for are *Error.
func (s *Server) receive(conn *tls.Conn, first hello, creds Credentials) (Request, error) {
	greeting := welcome{Version: protocolVersion, Time: s.opts.Now()}
	switch {
	case first.Version != protocolVersion:
		greeting.Code = CodeVersion
	case creds.Mesh == "":
		greeting.Code = CodeNotMember
	case first.Mesh != creds.Mesh:
		greeting.Code = CodeWrongMesh
	default:
		greeting.Chain = creds.Chain
	}
	if err := writeFrame(conn, greeting, maxWelcome); err != nil {
		return Request{}, err
	}
	if greeting.Code != "" {
		return Request{}, fmt.Errorf("said %q to the client", greeting.Code)
	}
	var signed signedRequest
	if err := readFrame(conn, &signed, maxRequest); err != nil {
		if errors.Is(err, errMalformed) || errors.Is(err, errTooLarge) {
			return Request{}, ErrBadRequest
		}
		return Request{}, err
	}
	binding, err := sessionBinding(conn)
	if err != nil {
		return Request{}, err
	}
	return openRequest(signed, binding, creds.Mesh)
}

// openRequest checks all of a request that can be checked without the catalog.
func openRequest(signed signedRequest, binding []byte, mesh catalog.MeshID) (Request, error) {
	bad := func(format string, args ...any) (Request, error) {
		return Request{}, fmt.Errorf("%w: %w", ErrBadRequest, fmt.Errorf(format, args...))
	}
	var req Request
	if err := json.Unmarshal(signed.Request, &req); err != nil {
		return bad("the request: %w", err)
	}
	if len(req.Node) != ed25519.PublicKeySize {
		return bad("the key has %d bytes", len(req.Node))
	}
	if !ed25519.Verify(req.Node, proofMessage(binding, signed.Request), signed.Proof) {
		return bad("the request was not signed for this session")
	}
	if err := req.Token.Verify(); err != nil {
		return bad("the token: %w", err)
	}
	invite, err := catalog.Decode[catalog.Invite](req.Token)
	if err != nil {
		return bad("the token: %w", err)
	}
	if invite.Mesh != mesh {
		return Request{}, ErrWrongMesh
	}
	if err := req.Document.Verify(); err != nil {
		return bad("the document: %w", err)
	}
	document, err := catalog.Decode[catalog.Document](req.Document)
	switch {
	case err != nil:
		return bad("the document: %w", err)
	case !req.Node.Equal(req.Document.Author) || document.Mesh != mesh || document.Left:
		return bad("the document is not that of a joining node of this mesh")
	}
	return req, nil
}

// admit asks the Admitter and sends the answer.
func (s *Server) admit(ctx context.Context, conn *tls.Conn, req Request, log *slog.Logger) {
	log = log.With("node", catalog.NodeIDOf(req.Node))
	admitCtx, cancel := context.WithTimeout(ctx, admitTime)
	defer cancel()
	response, err := s.opts.Admitter.Admit(admitCtx, req, remoteOf(conn))
	if err != nil {
		refused := refusalOf(err)
		log.Warn("a host was not let in", "code", refused.Code, "error", err)
		s.refuse(conn, refused)
		return
	}
	if err := s.answer(conn, response); err != nil {
		log.Warn("a host was let in but did not get the answer; it may ask again", "error", err)
		return
	}
	log.Info("a host joined")
}

func (s *Server) answer(conn *tls.Conn, response Response) error {
	end := time.Now().Add(answerTime)
	extend := func() error {
		deadline := time.Now().Add(frameTime)
		if deadline.After(end) {
			deadline = end
		}
		return conn.SetDeadline(deadline)
	}
	if err := extend(); err != nil {
		return err
	}
	head := answer{Time: s.opts.Now(), Certificate: response.Certificate, Observed: remoteOf(conn)}
	if err := writeFrame(conn, head, maxAnswer); err != nil {
		return err
	}
	if err := sendRecords(conn, response.Records, extend); err != nil {
		return err
	}
	return s.finish(conn)
}

// refuse tells the client why not, if it still listens.
func (s *Server) refuse(conn *tls.Conn, why *Error) {
	if err := conn.SetDeadline(time.Now().Add(frameTime)); err != nil {
		return
	}
	head := answer{Code: why.Code, Detail: why.Detail, Time: s.opts.Now()}
	if err := writeFrame(conn, head, maxAnswer); err == nil {
		_ = s.finish(conn)
	}
}

// finish ends the stream and waits until the client has closed its side. Closing with
// unread data in the socket would reset the connection, and the answer with it.
func (s *Server) finish(conn *tls.Conn) error {
	if err := conn.CloseWrite(); err != nil {
		return fmt.Errorf("ending the answer: %w", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(lingerTime)); err != nil {
		return fmt.Errorf("ending the answer: %w", err)
	}
	scrap := make([]byte, 1024)
	for read := 0; read < maxRequest; {
		n, err := conn.NetConn().Read(scrap)
		if err != nil {
			return nil // it closed, or it takes too long
		}
		read += n
	}
	return nil
}
