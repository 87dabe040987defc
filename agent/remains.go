package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/meshd/meshd/peers/identity"
)

// unusable says of a directory that cannot be used which setting names it. What identity says of a
// directory that somebody else has, or may read, ends in advice already.
func unusable(key, path string, err error) error {
	if errors.Is(err, identity.ErrLocked) || errors.Is(err, identity.ErrUnsafe) {
		return err
	}
	return fmt.Errorf("%s %s cannot be used: %w: make it a directory that root can write, or name another with %s", key, path, err, key)
}

// finish makes the membership file anew from the catalog, for a host whose join was cut short just
// before it was written, or that has lost it. It returns identity.ErrNone if nobody has let this host in.
func (a *Agent) finish(id *identity.Identity) (identity.Membership, error) {
	known, err := readCatalog(catalogPath(a.cfg.StateDir), a.log)
	if errors.Is(err, fs.ErrNotExist) {
		return identity.Membership{}, identity.ErrNone
	}
	if err != nil {
		return identity.Membership{}, err
	}
	certificate, ok := known.Certificate(id.ID())
	if !ok {
		return identity.Membership{}, identity.ErrNone
	}
	m := identity.Membership{Mesh: known.Mesh(), Certificate: certificate}
	a.log.Warn("this host had no membership.json: made anew from the catalog")
	return m, a.dir.SaveMembership(id, m)
}

// remains says whether there is something in the kernel that a membership made which is over.
func (a *Agent) remains() bool {
	_, err := os.Lstat(meshNamespace(a.cfg))
	return err == nil
}

// clear removes what a membership left that no session knows of: in the kernel, and the files.
func (a *Agent) clear(ctx context.Context) error {
	errs := []error{removeState(a.cfg.StateDir), a.dir.Wipe()}
	if !a.remains() {
		return errors.Join(errs...)
	}
	s := &session{cfg: a.cfg, log: a.log}
	var err error
	if s.locals, err = openLocals(a.cfg.StateDir); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := errors.Join(s.makeNamespaces(), s.makeParts()); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, s.withdraw(ctx))...)
}
