package probe

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Once pings a host one time and returns how long the answer took. It returns ctx's error if none comes
// before that ends.
func Once(ctx context.Context, open func() (Pinger, error), to netip.Addr) (time.Duration, error) {
	pinger, err := open()
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = pinger.Close() })
	defer func() {
		if stop() {
			_ = pinger.Close()
		}
	}()
	payload, began := rand.Uint64(), time.Now()
	if err := pinger.Send(to, payload); err != nil {
		return 0, err
	}
	for {
		from, answer, err := pinger.Receive()
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			return 0, err
		}
		if from == to && answer == payload {
			return time.Since(began), nil
		}
	}
}
