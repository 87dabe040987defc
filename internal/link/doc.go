// Package link makes and repairs network interfaces inside namespaces: veth pairs,
// bridges, bridge ports, addresses, routes and sysctls.
//
// Every Ensure function looks first and changes only what is different, so calling it
// again causes no kernel event, and what is right already is adopted.
package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotFound is returned when there is no interface of that name.
var ErrNotFound = errors.New("no such interface")

// ErrTaken is returned when a name, an address or a route that we need belongs
// to somebody else. Nothing of theirs was changed.
var ErrTaken = errors.New("taken by somebody else")

// ErrPermission is returned when the kernel refuses because the process lacks CAP_NET_ADMIN.
var ErrPermission = errors.New("not permitted: root (CAP_NET_ADMIN) is needed")

// ErrUnsupported is returned when the running kernel lacks a feature.
var ErrUnsupported = errors.New("this kernel does not support it")

// classify gives a kernel error its class, so that callers can test it with
// errors.Is; the errno stays in the chain too.
func classify(err error) error {
	var missing netlink.LinkNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %w", ErrTaken, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %w", ErrPermission, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}
