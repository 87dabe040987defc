package agent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/health"
)

// checkOf reads the health check that a request asks for.
func checkOf(req api.AttachRequest) (health.Check, error) {
	if req.HealthInterval < 0 || req.HealthTimeout < 0 || req.HealthRetries < 0 || req.HealthSuccesses < 0 {
		return health.Check{}, invalid("a health check's interval, timeout, retries and successes are more than zero")
	}
	if req.Health == "" {
		if req.HealthInterval != 0 || req.HealthTimeout != 0 || req.HealthRetries != 0 || req.HealthSuccesses != 0 {
			return health.Check{}, invalid("there is no health check to set an interval, timeout, retries or successes for: give --health too")
		}
		return health.Check{}, nil
	}
	check, err := health.Parse(req.Health)
	if err != nil {
		return health.Check{}, invalid("%v", err)
	}
	if req.HealthInterval != 0 {
		check.Interval = max(req.HealthInterval, 50*time.Millisecond)
	}
	if req.HealthTimeout != 0 {
		check.Timeout = req.HealthTimeout
	}
	if req.HealthRetries != 0 {
		check.Retries = req.HealthRetries
	}
	if req.HealthSuccesses != 0 {
		check.Successes = req.HealthSuccesses
	}
	return check, nil
}

// watchHealth has an endpoint's check decide whether it is in rotation, until it goes.
func (s *session) watchHealth(l Local) {
	if l.Check == (health.Check{}) {
		return
	}
	s.tasks.Go(func() error {
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		try := func(ctx context.Context) error {
			address, there := s.addressOf(l.ID)
			switch {
			case !there:
				cancel() // it has gone
				return nil
			case !address.IsValid():
				return errors.New("it has no address yet")
			}
			return l.Check.Try(ctx, l.Namespace, address)
		}
		l.Check.Watch(ctx, try, func(state health.State) {
			fitness := catalog.Unhealthy
			if state.Healthy {
				fitness = catalog.Healthy
			}
			s.log.Info("an endpoint's health has changed", "endpoint", l.ID, "name", l.Name, "health", fitness, "reason", state.Reason)
			if err := s.setHealth(l.ID, fitness, shorten(state.Reason)); err != nil {
				s.log.Warn("telling an endpoint's health", "endpoint", l.ID, "err", err)
			}
		})
		return nil
	})
}

// addressOf is an endpoint's address on its first network, as its service is reached. there is false once it
// is no endpoint of this host.
func (s *session) addressOf(id string) (address netip.Addr, there bool) {
	l, there := s.locals.Get(id)
	if !there || len(l.Attachments) == 0 {
		return netip.Addr{}, there
	}
	if n, ok := s.store.View().Network(l.Attachments[0].Network); ok && l.Attachments[0].Index != 0 {
		address = n.Space.Address(l.Attachments[0].Index)
	}
	return address, true
}

// shorten keeps a text within what a record may hold; some of it came from the service.
func shorten(text string) string {
	const most = 60
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}
