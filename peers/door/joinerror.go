package door

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// JoinError is why no member let this host in, address by address.
type JoinError []AddressError

// AddressError is why one address was of no use.
type AddressError struct {
	Address string // HOST:PORT
	Err     error
}

// Error is one line.
func (e JoinError) Error() string {
	texts := make([]string, 0, len(e))
	for _, failed := range e {
		texts = append(texts, fmt.Sprintf("%s: %s", failed.Address, failed.Err))
	}
	return "joining: " + strings.Join(texts, "; ")
}

// Unwrap gives what was wrong with each address.
func (e JoinError) Unwrap() []error {
	errs := make([]error, 0, len(e))
	for _, failed := range e {
		errs = append(errs, failed.Err)
	}
	return errs
}

// stage is how far a connection came. What an error means depends on it.
type stage int

const (
	stageDial stage = iota
	stageTLS
	stageTalk
)

// stageError is a failure of the connection; its text says what to look at.
type stageError struct {
	stage stage
	err   error
}

func (e *stageError) Unwrap() error { return e.err }

func (e *stageError) Error() string {
	if e.stage == stageDial {
		return e.dialText()
	}
	const notMeshd = "something answers there, but it is not meshd's join door: check the port (join.listen on that host)"
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(e.err, &record), errors.As(e.err, &alert), errors.Is(e.err, errNotADoor),
		errors.Is(e.err, errTooLarge), errors.Is(e.err, errMalformed):
		return notMeshd
	case isTimeout(e.err) && e.stage == stageTLS:
		return "it accepts connections but says nothing: check the port (join.listen on that host), or a firewall in between"
	case isTimeout(e.err):
		return "it stopped answering: try again, or look into its log"
	case isClosed(e.err) && e.stage == stageTLS:
		return "it closed the connection at once: too many hosts join there right now, or it is not meshd: try again, or check the port"
	case isClosed(e.err):
		return "it closed the connection before it had answered: try again, or look into its log"
	case e.stage == stageTLS:
		return notMeshd + ": " + e.err.Error()
	default:
		return e.err.Error()
	}
}

func (e *stageError) dialText() string {
	var dns *net.DNSError
	switch {
	case errors.As(e.err, &dns) && dns.IsNotFound:
		return "no such host name: check the spelling, or use its address"
	case errors.As(e.err, &dns):
		return fmt.Sprintf("its name cannot be looked up (%s): use its address", dns.Err)
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return "connection refused: is `meshd agent` running there, and is this the port of its join.listen?"
	case errors.Is(e.err, syscall.EHOSTUNREACH), errors.Is(e.err, syscall.ENETUNREACH):
		return "it cannot be reached from here: check the address and this host's routes"
	case isTimeout(e.err):
		return "no answer: does a firewall drop this TCP port, or is the host down?"
	default:
		return e.err.Error()
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// closedEarly says whether a door closed before it said anything.
func closedEarly(err error) bool {
	var failed *stageError
	return errors.As(err, &failed) && failed.stage == stageTLS && isClosed(failed.err)
}
