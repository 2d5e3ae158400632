package missing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// inputsOf returns the input of a comparison without what takes long to read, and a hash of all of
// the input. What takes long enters the hash by its stamp. If it changes after its stamp was taken
// and before it is read, the result is newer than the hash, and the next hash differs.
func inputsOf(ctx context.Context, s *session.Session, tables []progress.TableInfo) (*ledger.Input, string, error) {
	in := &ledger.Input{ByHand: s.Stream.ByHand || s.Stream.LoadStatus == "none",
		Selected:      !s.Stream.Whole && s.Stream.LoadStatus == "loaded",
		WithoutOwners: slices.Contains(s.Stream.Without, format.WithoutOwners),
		WithoutRights: slices.Contains(s.Stream.Without, format.WithoutRights), Ended: s.Stream.Ended,
		OldRights: pgdial.Version(s.OnSource.PgConn()) < 170000 || pgdial.Version(s.OnTarget.PgConn()) < 170000,
		Role:      make(map[string]bool)}
	if s.Slot != "" && !s.Stream.Ended {
		in.Stream = s.Stream.ID
	}
	var source, target, record string
	// The stamp leaves out the right to connect.
	const rights = "(SELECT coalesce(d.datacl::pg_catalog.text, '') FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if source, err = inventory.Stamp(gctx, s.OnSource); err == nil {
			var mayConnect string
			err = s.OnSource.QueryRow(gctx, "SELECT pg_catalog.quote_ident(current_user), "+rights).Scan(&in.SourceRole, &mayConnect)
			source += mayConnect
		}
		return s.Source.Explain(err)
	})
	g.Go(func() (err error) {
		if target, err = inventory.Stamp(gctx, s.OnTarget); err == nil {
			record, err = progress.RecordStamp(gctx, s.OnTarget, s.Stream.ID)
		}
		if err == nil {
			var mayConnect string
			err = s.OnTarget.QueryRow(gctx, "SELECT pg_catalog.quote_ident(current_user), pg_catalog.current_database(), "+rights).
				Scan(&in.TargetRole, &in.Database, &mayConnect)
			target += mayConnect
		}
		if err == nil {
			in.Renames, err = renames(gctx, s, tables)
		}
		return s.Target.Explain(err)
	})
	if err := g.Wait(); err != nil {
		return nil, "", err
	}
	// The input has no pointers yet, and maps are printed in the order of their keys.
	h := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %#v", cli.Build(), source, target, record, *in))
	return in, hex.EncodeToString(h[:]), nil
}
