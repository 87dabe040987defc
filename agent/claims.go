package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshd/meshd/claims"
)

// reviewEvery is how often the blocks of this host are looked at when nothing happens.
const reviewEvery = time.Minute

// keepClaims keeps the endpoints here at the addresses that they should have. It gives up the blocks that this
// host lost to another, which happens when two halves of a mesh meet again, gives the endpoints that lost
// their address with them a new one, has them on the network that their published ports need, and gives
// back the blocks that nobody is in.
func (s *session) keepClaims(ctx context.Context) error {
	ticker := time.NewTicker(reviewEvery)
	defer ticker.Stop()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.claimNews:
		case <-ticker.C:
		case <-retry:
		}
		retry = nil
		if !s.believes() {
			retry = time.After(time.Second) // a network may only not have come yet
			continue
		}
		err := s.addresses.Review(time.Since(s.started))
		if err == nil {
			err = s.readdress(ctx)
		}
		if err == nil {
			err = s.keepVIPs()
		}
		if err == nil {
			err = s.keepPublished(ctx)
		}
		if err == nil {
			err = s.tellOccupied()
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("this host does not tell the others yet what it should", "err", err)
			retry = time.After(5 * time.Second)
		}
	}
}

// believes says whether membership, and with it the catalog, can be believed.
func (s *session) believes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled
}

// readdress gives new addresses to the endpoints whose addresses went to another host.
func (s *session) readdress(ctx context.Context) error {
	var errs []error
	for _, lost := range claims.Displaced(s.store.View(), s.store.self, s.store.Own().Endpoints) {
		err := s.addresses.Allocate(ctx, lost.Network, func(index uint32) error {
			return s.locals.Move(lost.Endpoint, lost.Network, index)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s on network %s: %w", lost.Endpoint, lost.Network, err))
			continue
		}
		s.log.Warn("an endpoint's address belongs to another host: it has a new one", "endpoint", lost.Endpoint, "network", lost.Network)
	}
	return errors.Join(append(errs, s.publishEndpoints())...)
}

// keepVIPs has the endpoints here say what the virtual IPs of their services have become.
func (s *session) keepVIPs() error {
	view, changed := s.store.View(), false
	for _, l := range s.locals.All() {
		if e, differs := claims.Revote(view, l.Endpoint); differs {
			changed = true
			if err := s.locals.SetAttachments(l.ID, e.Attachments); err != nil {
				return err
			}
		}
	}
	if !changed {
		return nil
	}
	return s.publishEndpoints()
}
