package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/meshd/meshd/catalog"
	"github.com/meshd/meshd/internal/atomicfile"
	"github.com/meshd/meshd/internal/netns"
)

// locals is the endpoints of this host, kept on disk, so that an agent that comes
// back knows what its predecessor made.
type locals struct {
	path string

	writing sync.Mutex // one change at a time; held during IO

	mu        sync.Mutex // guards all below; the first two are replaced whole
	byID      map[string]Local
	confirmed map[catalog.Claim]bool        // our claims that everybody has acknowledged
	retired   map[addressKey]catalog.Millis // addresses that must rest, and when their endpoint went
	written   error                         // of the last write to disk
	reserved  map[addressKey]bool           // addresses that were promised to an endpoint to come
}

// localsFile is what is on disk.
type localsFile struct {
	Endpoints []Local         `json:"endpoints"`
	Confirmed []catalog.Claim `json:"confirmed"`
	Resting   []resting       `json:"resting,omitempty"`
}

// openLocals reads the endpoints of the last agent and drops those that have gone
// since: whose process has ended, or whose namespace is no more, as all are after a reboot.
func openLocals(stateDir string) (*locals, error) {
	l := &locals{
		path:      filepath.Join(stateDir, "endpoints"),
		byID:      make(map[string]Local),
		confirmed: make(map[catalog.Claim]bool),
		retired:   make(map[addressKey]catalog.Millis),
		reserved:  make(map[addressKey]bool),
	}
	data, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading this host's endpoints: %w: move it away and start the agent again; endpoints have to be attached anew", err)
	}
	var file localsFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): move it away and start the agent again; endpoints have to be attached anew", l.path, err)
	}
	for _, e := range file.Endpoints {
		if !e.exists() {
			l.retireLocked(e, now())
			continue
		}
		l.byID[e.ID] = e
	}
	for _, c := range file.Confirmed {
		l.confirmed[c] = true
	}
	for _, r := range file.Resting {
		l.retired[addressKey{r.Network, r.Index}] = r.Since
	}
	return l, nil
}

// exists says whether there still is what the endpoint was made for.
func (l Local) exists() bool {
	if l.Process != (Process{}) && l.Process.hasEnded() {
		return false
	}
	h, err := netns.Open(l.Namespace)
	if err != nil {
		return false
	}
	_ = h.Close() // only looked at
	if l.Source == "" {
		return true
	}
	// Who made the namespace removes it, perhaps while nobody could tell us.
	same, err := netns.Same(l.Source, l.Namespace)
	return same || err != nil && !errors.Is(err, netns.ErrNotExist)
}

// All is every endpoint, sorted by ID.
func (l *locals) All() []Local {
	l.mu.Lock()
	defer l.mu.Unlock()
	return sorted(l.byID)
}

func sorted(byID map[string]Local) []Local {
	all := make([]Local, 0, len(byID))
	for _, e := range byID {
		all = append(all, e.clone())
	}
	slices.SortFunc(all, func(a, b Local) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Get returns an endpoint by ID.
func (l *locals) Get(id string) (Local, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.byID[id]
	return e.clone(), ok
}

// ByKey returns the endpoint that was attached with a key.
func (l *locals) ByKey(key string) (Local, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.byID {
		if e.Key == key {
			return e.clone(), true
		}
	}
	return Local{}, false
}

// Put adds or replaces an endpoint, once it is on disk.
func (l *locals) Put(e Local) error {
	return l.write(true, func(byID map[string]Local, _ map[catalog.Claim]bool) { byID[e.ID] = e.clone() })
}

// Move gives an endpoint another address on a network. One that has gone since stays away.
func (l *locals) Move(id, network string, index uint32) error {
	return l.edit(id, func(e *Local) {
		for i := range e.Attachments {
			if e.Attachments[i].Network == network {
				e.Attachments[i].Index = index
			}
		}
	})
}

// Describe changes what an endpoint is beside its attachments. One that has gone since stays away.
func (l *locals) Describe(want Local) error {
	return l.edit(want.ID, func(e *Local) {
		e.Service, e.Publish, e.GatewayIndex = want.Service, slices.Clone(want.Publish), want.GatewayIndex
	})
}

// Identify changes what the mesh is told of an endpoint: its names, what it publishes, and its fitness. One
// that has gone since stays away.
func (l *locals) Identify(want Local) error {
	return l.edit(want.ID, func(e *Local) {
		e.Name, e.Service, e.Publish, e.HostPublish = want.Name, want.Service, slices.Clone(want.Publish), slices.Clone(want.HostPublish)
		e.Health, e.Reason, e.Draining = want.Health, want.Reason, want.Draining
		for i := range e.Attachments {
			for _, a := range want.Attachments {
				if a.Network == e.Attachments[i].Network {
					e.Attachments[i].Aliases = a.Aliases
					e.Attachments[i].VIP, e.Attachments[i].VIPStamp, e.Attachments[i].VIPMoved = a.VIP, a.VIPStamp, a.VIPMoved
				}
			}
		}
	})
}

// AddAttachment puts an endpoint on one more network, on behalf of owner. One that has gone
// since stays away.
func (l *locals) AddAttachment(id string, a catalog.Attachment, inside, owner string) error {
	return l.edit(id, func(e *Local) {
		e.Attachments = append(e.Attachments, a)
		e.describeAttachment(a.Network, inside, owner)
	})
}

// RemoveAttachment takes an endpoint off a network and has its address rest.
func (l *locals) RemoveAttachment(id, network string, at catalog.Millis) error {
	return l.edit(id, func(e *Local) {
		e.Attachments = slices.DeleteFunc(e.Attachments, func(a catalog.Attachment) bool {
			if a.Network != network {
				return false
			}
			l.mu.Lock()
			l.retired[addressKey{network, a.Index}] = at
			l.mu.Unlock()
			return true
		})
		delete(e.Interfaces, network)
		delete(e.Owners, network)
	})
}

// SetAttachments changes the virtual IPs that an endpoint stands for. One that has gone, or
// moved to another address since, stays as it is.
func (l *locals) SetAttachments(id string, attachments []catalog.Attachment) error {
	return l.edit(id, func(e *Local) {
		for i := range e.Attachments {
			a := &e.Attachments[i]
			for _, b := range attachments {
				if a.Network == b.Network && a.Index == b.Index {
					*a = b
				}
			}
		}
	})
}

// SetHealth changes an endpoint's fitness, and the reason for it. One that has gone since stays away.
func (l *locals) SetHealth(id string, health catalog.Health, reason string) error {
	return l.edit(id, func(e *Local) { e.Health, e.Reason = health, reason })
}

// SetDraining takes an endpoint out of rotation, or puts it back; until is when it must have finished what it has, 0:
// never. One that has gone since stays away.
func (l *locals) SetDraining(id string, draining bool, until catalog.Millis) error {
	return l.edit(id, func(e *Local) { e.Draining, e.DrainUntil = draining, until })
}

func (l *locals) edit(id string, change func(*Local)) error {
	return l.write(true, func(byID map[string]Local, _ map[catalog.Claim]bool) {
		if e, ok := byID[id]; ok {
			e = e.clone()
			change(&e)
			byID[id] = e
		}
	})
}

// Remove forgets an endpoint and has its addresses rest. The file may fail to be
// written: the namespace is gone then at the next start, and so is the endpoint.
func (l *locals) Remove(id string, at catalog.Millis) error {
	l.mu.Lock()
	l.retireLocked(l.byID[id], at)
	l.mu.Unlock()
	return l.write(false, func(byID map[string]Local, _ map[catalog.Claim]bool) { delete(byID, id) })
}

// Confirm notes that a claim of ours may be used, once that is on disk. It is this claim, with
// its stamp: whoever loses a block and claims it again has to ask again.
func (l *locals) Confirm(c catalog.Claim) error {
	return l.write(true, func(_ map[string]Local, confirmed map[catalog.Claim]bool) { confirmed[c] = true })
}

// Unconfirm takes Confirm back: the claims were lost, or given up.
func (l *locals) Unconfirm(claims ...catalog.Claim) error {
	if !slices.ContainsFunc(claims, l.Confirmed) {
		return nil
	}
	return l.write(false, func(_ map[string]Local, confirmed map[catalog.Claim]bool) {
		for _, c := range claims {
			delete(confirmed, c)
		}
	})
}

// ConfirmedClaims is every claim of whose block addresses may be handed out.
func (l *locals) ConfirmedClaims() []catalog.Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Keys(l.confirmed), compareClaims)
}

// Confirmed says whether addresses of a claim's block may be handed out.
func (l *locals) Confirmed(c catalog.Claim) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.confirmed[c]
}

// write changes what is on disk, and then what is in memory. If the disk refuses, memory
// stays as it is if durable, and changes all the same otherwise.
func (l *locals) write(durable bool, change func(byID map[string]Local, confirmed map[catalog.Claim]bool)) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	byID, confirmed := maps.Clone(l.byID), maps.Clone(l.confirmed)
	l.mu.Unlock()
	change(byID, confirmed)
	err := l.save(byID, confirmed)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = err
	if err == nil || !durable {
		l.byID, l.confirmed = byID, confirmed
	}
	return err
}

// DiskError is what the last write to disk failed with, or nil.
func (l *locals) DiskError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// Flush writes what is in memory if the disk refused the last write.
func (l *locals) Flush() error {
	if l.DiskError() == nil {
		return nil
	}
	return l.write(true, func(map[string]Local, map[catalog.Claim]bool) {})
}

func (l *locals) save(byID map[string]Local, confirmed map[catalog.Claim]bool) error {
	file := localsFile{Endpoints: sorted(byID), Confirmed: slices.SortedFunc(maps.Keys(confirmed), compareClaims), Resting: l.resting()}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding this host's endpoints: %w", err)
	}
	if err := atomicfile.Write(l.path, data, 0o600); err != nil {
		return fmt.Errorf("saving this host's endpoints: %w", err)
	}
	return nil
}
