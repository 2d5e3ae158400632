// Package watch finds what was written to the source after the last change that the target has. No
// fence holds everybody: a superuser, or a session that asks for a read-write transaction, passes
// it. So the source's WAL is read for as long as the slot keeps it.
package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// The results of a look at the source.
const (
	Clean   = "clean"   // nobody has written
	Written = "written" // somebody has, and nobody has accepted it
	Unknown = "unknown" // it cannot be told
)

// A Report is what a look at the source has found.
type Report struct {
	Result string    `json:"result"`
	Since  time.Time `json:"since"` // when the source was drained
	// Nothing else was found up to here; what was accepted before is left out.
	*Writes
	// what has changed of the large objects, which no slot carries
	LargeObjects string `json:"large_objects,omitempty"`
	// tables of which only inserts are carried, and of which rows were updated or deleted
	Uncarried []string `json:"uncarried,omitempty"`
	// tables that were created or altered, and that the slot does not carry
	Created []string `json:"created,omitempty"`
	// why it cannot be told
	Reason string `json:"reason,omitempty"`

	unknown error
	writers []string // sessions on the source that are not ours
}

// Once looks at the source of an open target and records what it finds. It waits up to patience for
// a program that still reads the slot. What it has found before stays, until it is accepted. If it
// has found nothing, it lets go of the WAL that it has looked at.
func Once(ctx context.Context, s *session.Session, patience time.Duration) (*Report, error) {
	if err := alone(ctx, s, patience); err != nil {
		return nil, err
	}
	r, before, err := see(ctx, s, patience)
	if err != nil {
		return nil, err
	}
	if err := r.record(ctx, s, before); err != nil {
		return nil, s.Target.Explain(err)
	}
	if r.Result == Clean && s.Slot != "" {
		letGo(ctx, s, r.To)
	}
	return r, nil
}

// See is Once without recording anything. Another look may be at work.
func See(ctx context.Context, s *session.Session, patience time.Duration) (*Report, error) {
	r, _, err := see(ctx, s, patience)
	return r, err
}

// see looks, and returns what was recorded before.
func see(ctx context.Context, s *session.Session, patience time.Duration) (*Report, progress.Watch, error) {
	before, err := progress.GetWatch(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return nil, before, s.Target.Explain(err)
	}
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return nil, before, s.Target.Explain(err)
	}
	r := &Report{Result: Clean, Writes: new(Writes)}
	if d := session.Done(done, "drain"); d != nil {
		r.Since = d.Finished.UTC()
	}
	if r.unknown = r.look(ctx, s, before, done, patience); r.unknown != nil {
		r.Result, r.Reason = Unknown, r.unknown.Error()
	}
	if !r.Writes.Clean() || r.LargeObjects != "" || len(r.Uncarried)+len(r.Created) > 0 {
		r.Result = Written
	}
	if before.Result == Written && r.Result != Written {
		kept := *r
		if json.Unmarshal([]byte(before.Written), &kept) == nil {
			kept.Reason = r.Reason
			*r = kept
		}
		r.Result = Written
	}
	return r, before, nil
}

// alone waits until no other look is at work: two would see each other move the slot.
func alone(ctx context.Context, s *session.Session, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		_, holder, err := progress.Try(ctx, progress.AskOf(s.OnTarget), s.Stream.ID, progress.WatchLock, func(text string) { s.Log.Warn(text) })
		if err != nil || holder == "" {
			return s.Target.Explain(err)
		}
		if time.Now().After(deadline) {
			return fault.New(fault.TryAgain, "another pgcutover is looking at what was written to the source").WithDetail("It is %s.", holder).
				WithHint("Wait until it has ended, or stop it. Then: pgcutover watch --slot %s", s.Slot)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// letGo moves the slot past what was looked at, so that the source can remove its WAL. It is
// recorded by then that nobody has written up to there. Best effort: the next look tries again.
func letGo(ctx context.Context, s *session.Session, upTo format.LSN) {
	publications, err := slot.PublicationsOf(ctx, s.OnSource, s.Slot)
	var info *slot.Info
	if err == nil {
		info, err = slot.Get(ctx, s.OnSource, s.Slot)
	}
	if err == nil && info != nil {
		err = slot.Release(ctx, s.Source, info, publications, upTo)
	}
	if err != nil && ctx.Err() == nil {
		s.Log.Warn(fmt.Sprintf("slot %q still keeps the WAL that was looked at: %v", s.Slot, s.Source.Explain(err)))
	}
}

// look asks the source. An error means that it cannot be told.
func (r *Report) look(ctx context.Context, s *session.Session, before progress.Watch, done []progress.Step, patience time.Duration) error {
	if s.OnSource == nil {
		if err := s.OpenSource(ctx); err != nil {
			return err
		}
	}
	var cannot error
	for deadline := time.Now().Add(patience); ; {
		w, err := Look(ctx, s.OnSource, s.Slot, s.Stream.Key.Database, max(s.Stream.Applied, before.Accepted))
		if err == nil {
			err = sameTimeline(ctx, s)
		}
		if err == nil {
			r.Writes = w
		}
		cannot = session.Denied(s.Source.Explain(err), "The role needs the REPLICATION attribute. On RDS and Aurora: GRANT rds_replication TO …")
		if fault.StatusOf(cannot) != fault.TryAgain || time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	for _, part := range []func(context.Context, *session.Session, progress.Watch, []progress.Step) error{r.lookAtLargeObjects, r.recount, r.lookForTables} {
		if err := part(ctx, s, before, done); err != nil && cannot == nil {
			cannot = s.Source.Explain(err)
		}
	}
	r.writers = Writers(ctx, s.OnSource)
	return cannot
}

// sameTimeline refuses to judge a source that has gone to another timeline: its positions do not
// compare with those that the target knows.
func sameTimeline(ctx context.Context, s *session.Session) error {
	known := s.Stream.Source.Timeline
	if known == 0 {
		return nil
	}
	var file string
	if err := s.OnSource.QueryRow(ctx, "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())").Scan(&file); err != nil {
		return err
	}
	now, err := strconv.ParseUint(file[:min(8, len(file))], 16, 64)
	if err == nil && now != known {
		err = fault.New(fault.Config, "the source is on timeline %d, and the target has its changes from timeline %d", now, known).
			WithDetail("It was promoted or restored, so positions in its WAL do not compare.").
			WithHint("Compare the rows of both sides by hand.")
	}
	return err
}

func (r *Report) lookAtLargeObjects(ctx context.Context, s *session.Session, before progress.Watch, done []progress.Step) (err error) {
	r.LargeObjects, err = ChangedLargeObjects(ctx, s.OnSource, facts(before, done))
	return err
}

func facts(before progress.Watch, done []progress.Step) string {
	if d := session.Done(done, "drain"); before.LargeObjects == "" && d != nil {
		return d.LargeObjects
	}
	return before.LargeObjects
}

// lookForTables finds tables that were created or altered, and of which the slot does not carry the
// rows: those that the target does not know, and those that were made anew under a known name.
func (r *Report) lookForTables(ctx context.Context, s *session.Session, before progress.Watch, done []progress.Step) error {
	var n, sum, next int64
	if _, err := fmt.Sscan(facts(before, done), &n, &sum, &next); err != nil {
		return nil // nothing is known from before
	}
	publications, err := slot.PublicationsOf(ctx, s.OnSource, s.Slot)
	if err != nil {
		return err
	}
	rows, err := s.OnSource.Query(ctx, `SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
			coalesce(pg_catalog.cardinality($2::pg_catalog.text[]), 0) = 0 OR c.relkind = 'p' OR EXISTS (SELECT FROM pg_catalog.pg_publication_tables p WHERE p.pubname = ANY ($2) AND p.schemaname = n.nspname AND p.tablename = c.relname)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_'
		AND pg_catalog.age(c.xmin) <= pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) - $1 ORDER BY 1, 2`, next, publications)
	if err != nil {
		return err
	}
	var table [2]string
	var carries bool
	list := make(map[[2]string]bool)
	if _, err := pgx.ForEachRow(rows, []any{&table[0], &table[1], &carries}, func() error { list[table] = carries; return nil }); err != nil || len(list) == 0 {
		return err
	}
	tables, err := progress.Tables(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return err
	}
	known := make(map[[2]string]bool, len(tables))
	for i := range tables {
		known[[2]string{tables[i].SourceSchema, tables[i].SourceTable}] = true
	}
	for t, carries := range list {
		if !known[t] || !carries {
			r.Created = append(r.Created, t[0]+"."+t[1])
		}
	}
	slices.Sort(r.Created)
	return nil
}

// recount finds updates and deletes in the tables of which only inserts are carried.
func (r *Report) recount(ctx context.Context, s *session.Session, before progress.Watch, done []progress.Step) error {
	changed, _, err := carried.RecountTables(ctx, s.OnSource, counted(before, done))
	if err != nil || len(changed) == 0 {
		return err
	}
	rows, err := s.OnSource.Query(ctx, "SELECT coalesce((SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid = x), x::pg_catalog.text) FROM unnest($1::pg_catalog.oid[]) x ORDER BY 1", changed)
	if err != nil {
		return err
	}
	r.Uncarried, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return err
}

func counted(before progress.Watch, done []progress.Step) string {
	if f := session.Done(done, "fence"); before.Counted == "" && f != nil {
		return f.Counted
	}
	return before.Counted
}

// record writes the result to the target.
func (r *Report) record(ctx context.Context, s *session.Session, before progress.Watch) error {
	w := before
	w.Result, w.LSN, w.Detail = r.Result, r.To, r.Text()
	w.Written = ""
	if r.Result == Clean {
		w.Accepted = max(w.Accepted, r.To)
	}
	if r.Result == Written {
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		w.Written = ascii(data)
	}
	return progress.SetWatch(ctx, s.OnTarget, s.Stream.ID, w)
}

// ascii escapes what a target of another encoding could not store.
func ascii(data []byte) string {
	var b strings.Builder
	for _, r := range string(data) {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xffff:
			x, y := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, x, y)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// Accept accepts what was written to the source up to an LSN. It is not reported again.
func Accept(ctx context.Context, s *session.Session, upTo format.LSN) error {
	w, err := progress.GetWatch(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	if err := s.OpenSource(ctx); err != nil {
		return err
	}
	now, err := slot.FlushLSN(ctx, s.OnSource)
	if err != nil {
		return s.Source.Explain(err)
	}
	if upTo > now {
		return fault.New(fault.Usage, "--accept: the source has not reached LSN %v, it is at %v", upTo, now).
			WithHint("Use the LSN that pgcutover watch --slot %s prints.", s.Slot)
	}
	if w.Result == Written && upTo > w.LSN {
		return fault.New(fault.Usage, "--accept: nobody has looked behind LSN %v", w.LSN).
			WithHint("Use the LSN that pgcutover watch --slot %s prints.", s.Slot)
	}
	if w.LargeObjects, err = LargeObjects(ctx, s.OnSource); err != nil {
		return s.Source.Explain(err)
	}
	if _, w.Counted, err = carried.RecountTables(ctx, s.OnSource, counted(w, done)); err != nil {
		return s.Source.Explain(err)
	}
	w.Accepted, w.Result, w.Written = max(w.Accepted, upTo), "", ""
	return s.Target.Explain(progress.SetWatch(ctx, s.OnTarget, s.Stream.ID, w))
}

// Writers returns the sessions of the source that are not ours. They may have written.
func Writers(ctx context.Context, c *pgx.Conn) []string {
	rows, err := c.Query(ctx, `SELECT pg_catalog.format('process %s, user %s, %s', pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), 'no application name')) FROM pg_catalog.pg_stat_activity
		WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND NOT (usename = SESSION_USER AND application_name = 'pgcutover') AND coalesce(backend_type, 'client backend') IN ('client backend', 'logical replication worker', 'logical replication apply worker', 'logical replication parallel worker') ORDER BY pid`)
	if err != nil {
		return nil
	}
	list, _ := pgx.CollectRows(rows, pgx.RowTo[string])
	return list
}

// Text says in a line what the look has found.
func (r *Report) Text() string {
	switch r.Result {
	case Clean:
		return fmt.Sprintf("nobody has written to the source since it was drained, up to LSN %v", r.To)
	case Unknown:
		return "it cannot be told whether somebody has written to the source: " + r.Reason
	}
	return "the source was written to after the last change that the target has: " + r.what()
}

// what names what was written.
func (r *Report) what() string {
	var says []string
	for i := range r.Tables {
		says = append(says, r.Tables[i].Text())
	}
	if r.LargeObjects != "" {
		says = append(says, r.LargeObjects)
	}
	if len(r.Uncarried) > 0 {
		says = append(says, "rows updated, deleted or truncated in "+count.Some(r.Uncarried))
	}
	if len(r.Created) > 0 {
		says = append(says, "tables created or altered, which the slot does not carry: "+text.Escape(count.Some(r.Created)))
	}
	const most = 8
	if n := len(says) - most; n > 0 {
		says = append(says[:most], fmt.Sprintf("and %s more", count.Of(n, "table")))
	}
	return strings.Join(says, "; ")
}

// Err returns the error of a look that was not clean.
func (r *Report) Err(name string) error {
	switch r.Result {
	case Clean:
		return nil
	case Unknown:
		return r.because(fault.New(fault.StatusOf(r.unknown), "it cannot be told whether somebody has written to the source: %w", r.unknown))
	}
	e := fault.New(fault.Failed, "the source was written to after the last change that the target has: %s", r.what())
	if r.LastTime != nil {
		e = e.WithDetail("%s", strings.TrimSuffix(fmt.Sprintf("%s, the last one committed at %s, LSN %v. %s",
			count.Of(r.Transactions, "transaction"), r.LastTime.UTC().Format("2006-01-02 15:04:05 MST"), r.Last, r.sessions()), " "))
	}
	return e.WithHint("The target does not have this. End what writes to the source, and carry it over by hand. To accept it then: pgcutover watch --slot %s --accept %v",
		name, r.accepts())
}

// because adds to an error what is known of why a look could not tell.
func (r *Report) because(e *fault.Error) error {
	if f, ok := r.unknown.(*fault.Error); ok {
		e.Detail, e.Hint = f.Detail, f.Hint
	}
	return e
}

// accepts returns the LSN up to which it would have to be accepted.
func (r *Report) accepts() format.LSN { return max(r.Last, r.To) }

// Returning returns the error of a cutover that returns to the source, which is its target: what it
// lacks would come to light only after that. ends says which servers the hint's command needs.
func (r *Report) Returning(name, ends string) error {
	switch r.Result {
	case Clean:
		return nil
	case Unknown:
		return r.because(fault.New(fault.StatusOf(r.unknown), "it cannot be told whether somebody has written to the old primary while it was left: %w", r.unknown))
	}
	return fault.New(fault.Config, "the old primary was written to while it was left, and the new primary does not have this: %s", r.what()).
		WithHint("Carry it over to the new primary by hand. To accept it then, %s: pgcutover watch --slot %s --accept %v", ends, name, r.accepts())
}

func (r *Report) sessions() string {
	if len(r.writers) == 0 {
		return ""
	}
	return "Sessions on the source now: " + strings.Join(r.writers[:min(len(r.writers), 8)], "; ") + "."
}
