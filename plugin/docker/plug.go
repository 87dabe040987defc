package docker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshd/meshd/api"
	"github.com/meshd/meshd/internal/link"
	"github.com/meshd/meshd/internal/netns"
)

// plug is a container being put on a network, which may have to wait for its namespace.
type plug struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
}

const (
	// namespaceWait is how long a container may take to get its namespace.
	namespaceWait = 2 * time.Minute
	namespacePoll = 3 * time.Millisecond
	// prepareWait is for engines that leave IPv6 on.
	prepareWait = 250 * time.Millisecond
	plugTimeout = 30 * time.Second // agreeing on a block of addresses may take 20 s
	plugRetry   = time.Second
	leaveWait   = 100 * time.Millisecond
)

// plugIn begins to put an endpoint on its network, unless that is under way.
func (p *Plugin) plugIn(e endpoint) *plug {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have := p.plugs[e.ID]; have != nil {
		return have
	}
	ctx, cancel := context.WithCancel(p.ctx)
	pl := &plug{cancel: cancel, done: make(chan struct{})}
	p.plugs[e.ID] = pl
	p.running.Go(func() {
		defer cancel()
		pl.err = p.attach(ctx, e)
		p.mu.Lock()
		if p.plugs[e.ID] == pl {
			delete(p.plugs, e.ID)
		}
		p.mu.Unlock()
		close(pl.done)
		if e, ok := p.state.endpoint(e.ID); ok && e.Container != "" {
			p.poke(e.Container)
		}
	})
	return pl
}

// attach puts an endpoint on its network. It tries until it is there, or the endpoint is not wanted any
// more; then it is no error.
func (p *Plugin) attach(ctx context.Context, e endpoint) error {
	about := aboutContainer(e)
	for {
		err := p.attachOnce(ctx, e)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			p.report(about, nil)
			return nil
		case errors.Is(err, netns.ErrNotExist), code(err) == api.CodeNotFound:
			return err // the container ended before it began, or the network did
		case code(err) == api.CodeNoMesh:
			return err // tried again when there is one
		}
		p.report(about, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(plugRetry):
		}
	}
}

func (p *Plugin) attachOnce(ctx context.Context, e endpoint) error {
	if err := awaitNamespace(ctx, e.Sandbox); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	_, err := p.mesh.Attach(ctx, api.AttachRequest{
		Key: e.key(), NetNS: e.Sandbox, Networks: []string{e.Network}, Name: fmt.Sprintf("%.12s", e.ID),
		IP: e.IP, MAC: e.MAC, Interface: e.Interface, Owner: Driver, Resolver: true, Starting: true,
	})
	return err
}

func namespaceThere(path string) bool {
	h, err := netns.Open(path)
	if err != nil {
		return false
	}
	_ = h.Close() // only looked for
	return true
}

// awaitNamespace waits until there is a namespace at path. Docker 20.10 makes it after it has asked us to join, and
// switches IPv6 off in it a moment later, which would take our addresses away: that is waited for too. Engines
// that have it ready leave IPv6 alone.
func awaitNamespace(ctx context.Context, path string) error {
	if namespaceThere(path) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, namespaceWait)
	defer cancel()
	ticker := time.NewTicker(namespacePoll)
	defer ticker.Stop()
	var seen time.Time
	for {
		prepared, err := preparedByEngine(path)
		if err == nil && seen.IsZero() {
			seen = time.Now()
		}
		switch {
		case err == nil && (prepared || time.Since(seen) > prepareWait):
			return nil
		case err != nil && !errors.Is(err, netns.ErrNotExist):
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-ticker.C:
		}
	}
}

// preparedByEngine says whether IPv6 is off in the namespace at path, as the Engine leaves it. Our own
// interfaces have it all the same.
func preparedByEngine(path string) (bool, error) {
	ns, err := link.Open(path)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	off, err := ns.Sysctl("ipv6/conf/all/disable_ipv6")
	return err != nil || off == "1", nil // without IPv6 there is nothing to wait for
}

// unplug ends what plugIn began, and takes the endpoint off its network. The Engine waits only a moment
// for it: its namespace goes anyway, and the address is not used again for a while. What fails is put off, also after that moment.
func (p *Plugin) unplug(ctx context.Context, e endpoint) {
	p.mu.Lock()
	pl := p.plugs[e.ID]
	p.leaving.Add(1)
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	done := make(chan struct{})
	p.goOn(func(background context.Context) {
		defer close(done)
		defer p.leaving.Add(-1)
		if pl != nil {
			pl.cancel()
			<-pl.done
		}
		limited, cancel := context.WithTimeout(background, plugTimeout)
		defer cancel()
		if err := p.detach(limited, e); background.Err() == nil {
			p.putOff(e, err)
		}
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}
