package door

import "time"

// SetRequestTime sets a server's patience with slow clients. It is for connections by a listener that is served from then on.
func SetRequestTime(s *Server, d time.Duration) { s.requestTime = d }

// Conns is how many connections a server has open.
func Conns(s *Server) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// MaxConnsPerIP is the limit for one source.
const MaxConnsPerIP = maxConnsPerIP

// Protocol parts that hostile peers of the tests are made of.
type (
	Hello         = hello
	Welcome       = welcome
	SignedRequest = signedRequest
	Answer        = answer
	PairOffer     = pairOffer
	PairReveal    = pairReveal
	Room          = room
)

// Protocol functions that hostile peers of the tests are made of.
var (
	ClientTLS  = clientTLS
	ServerTLS  = serverTLS
	SelfSigned = selfSigned
	ReadFrame  = readFrame
	WriteFrame = writeFrame
	Commitment = commitment
)

// MaxRequest is the limit of a request's frame.
const MaxRequest = maxRequest

// Limits of the waiting room.
const (
	PairBurst       = pairBurst
	MaxWaitingPerIP = maxWaitingPerIP
)

// Admits says whether a room takes one more attempt at a time.
func Admits(r *Room, now time.Time) bool { return r.admits(now) }
