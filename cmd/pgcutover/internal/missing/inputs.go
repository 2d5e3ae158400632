package missing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// A targetSide is what a comparison needs of the target before it reads the objects.
type targetSide struct {
	read                  chan struct{} // closed when the rest is there
	stamp, role, database string
	renames               ledger.Renames
	err                   error
}

// The stamp leaves out the right to connect.
const mayConnect = "(SELECT coalesce(d.datacl::pg_catalog.text, '') FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"

// Begin begins to read what a comparison needs of the target, while the caller asks the source. The
// caller must call End.
func (k *Known) Begin(ctx context.Context, s *session.Session) {
	k.target = readTarget(ctx, s, k.Tables)
}

// End waits until nothing is read any more.
func (k *Known) End() {
	if k.target != nil {
		<-k.target.read
	}
}

func readTarget(ctx context.Context, s *session.Session, tables []progress.TableInfo) *targetSide {
	t := &targetSide{read: make(chan struct{})}
	go func() {
		defer close(t.read)
		s.Asking.Lock()
		defer s.Asking.Unlock()
		t.err = s.Target.Explain(t.ask(ctx, s, tables))
	}()
	return t
}

func (t *targetSide) ask(ctx context.Context, s *session.Session, tables []progress.TableInfo) error {
	stamp, err := inventory.Stamp(ctx, s.OnTarget)
	if err != nil {
		return err
	}
	record, err := progress.RecordStamp(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return err
	}
	var connect string
	if err := s.OnTarget.QueryRow(ctx, "SELECT pg_catalog.quote_ident(current_user), pg_catalog.current_database(), "+mayConnect).
		Scan(&t.role, &t.database, &connect); err != nil {
		return err
	}
	t.stamp = fmt.Sprintf("%q %q", stamp+connect, record)
	t.renames, err = renames(ctx, s, tables)
	return err
}

// inputsOf returns the input of a comparison without what takes long to read, and a hash of all of
// the input. What takes long enters the hash by its stamp. If it changes after its stamp was taken
// and before it is read, the result is newer than the hash, and the next hash differs.
func inputsOf(ctx context.Context, s *session.Session, known *Known) (*ledger.Input, string, error) {
	in := &ledger.Input{ByHand: s.Stream.ByHand || s.Stream.LoadStatus == "none",
		Selected:      !s.Stream.Whole && s.Stream.LoadStatus == "loaded",
		WithoutOwners: slices.Contains(s.Stream.Without, format.WithoutOwners),
		WithoutRights: slices.Contains(s.Stream.Without, format.WithoutRights), Ended: s.Stream.Ended,
		OldRights: pgdial.Version(s.OnSource.PgConn()) < 170000 || pgdial.Version(s.OnTarget.PgConn()) < 170000,
		Role:      make(map[string]bool)}
	if s.Slot != "" && !s.Stream.Ended {
		in.Stream = s.Stream.ID
	}
	target := known.target
	if target == nil {
		target = readTarget(ctx, s, known.Tables)
	}
	source, err := inventory.Stamp(ctx, s.OnSource)
	if err == nil {
		var connect string
		err = s.OnSource.QueryRow(ctx, "SELECT pg_catalog.quote_ident(current_user), "+mayConnect).Scan(&in.SourceRole, &connect)
		source += connect
	}
	<-target.read
	known.target = nil // it is not current the next time
	if err != nil {
		return nil, "", s.Source.Explain(err)
	}
	if target.err != nil {
		return nil, "", target.err
	}
	in.TargetRole, in.Database, in.Renames = target.role, target.database, target.renames
	// The input has no pointers yet, and maps are printed in the order of their keys.
	h := sha256.Sum256(fmt.Appendf(nil, "%q %q %s %#v", cli.Build(), source, target.stamp, *in))
	return in, hex.EncodeToString(h[:]), nil
}
