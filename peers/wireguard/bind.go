package wireguard

import (
	"errors"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

var errNoPort = errors.New("no listen port is set yet")

// patientBind opens no socket until it is given a port. So the tunnel can be up from the start
// without listening on a random port, and who sets a port that is taken is told so.
type patientBind struct {
	conn.Bind

	mu   sync.RWMutex // guards open
	open bool
}

func newPatientBind() *patientBind { return &patientBind{Bind: conn.NewDefaultBind()} }

// Open opens the sockets on port, or none if port is 0.
func (b *patientBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	if port == 0 {
		return nil, 0, nil
	}
	fns, actual, err := b.Bind.Open(port)
	b.setOpen(err == nil)
	return fns, actual, err
}

// Close closes the sockets, if there are any.
func (b *patientBind) Close() error {
	b.setOpen(false)
	return b.Bind.Close()
}

// Send sends packets to an endpoint, once there is a port to send from.
func (b *patientBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	b.mu.RLock()
	open := b.open
	b.mu.RUnlock()
	if !open {
		return errNoPort
	}
	return b.Bind.Send(bufs, ep)
}

func (b *patientBind) setOpen(open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = open
}
