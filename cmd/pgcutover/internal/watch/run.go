package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// Options of the verb watch.
type Options struct {
	Follow bool
	Every  time.Duration
	JSON   bool
	Accept string // an LSN
}

// Patience is how long a look waits for the sync that open has ended.
const Patience = 10 * time.Second

// Run looks at the source once, or at intervals until it is interrupted, and prints what it finds.
func Run(ctx context.Context, m *session.Migration, o Options) error {
	if o.Accept != "" {
		upTo, err := format.ParseLSN(o.Accept)
		if err != nil {
			return fault.New(fault.Usage, "--accept: %w", err).WithHint("Use the LSN that pgcutover watch prints, such as 0/19C2A70.")
		}
		s, err := begin(ctx, m)
		if err != nil {
			return err
		}
		err = Accept(ctx, s, upTo)
		s.Close(ctx)
		if err != nil {
			return err
		}
	}
	said := ""
	for {
		r, err := once(ctx, m)
		switch {
		case err == nil:
		case o.Follow && fault.StatusOf(err) == fault.TryAgain && ctx.Err() == nil:
			m.Log.Warn(err.Error())
		default:
			return err
		}
		if err == nil && r.news() != said {
			said = r.news()
			m.Wrote(0, r.print(m, o))
		}
		if !o.Follow {
			return r.Err(m.Slot)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(o.Every):
		}
	}
}

func once(ctx context.Context, m *session.Migration) (*Report, error) {
	s, err := begin(ctx, m)
	if err != nil {
		return nil, err
	}
	defer s.Close(ctx)
	return Once(ctx, s, Patience)
}

// begin opens the migration. Before the target is open, open itself looks.
func begin(ctx context.Context, m *session.Migration) (*session.Session, error) {
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return nil, err
	}
	m.Slot = s.Slot
	if !s.Stream.Ended {
		s.Close(ctx)
		return nil, fault.New(fault.Config, "the target is not open, so the source may be written to").
			WithHint("Watch the source after the cutover. Until then: pgcutover status --slot %s", m.Slot)
	}
	left, err := s.Left(ctx)
	if err == nil && left {
		err = fault.New(fault.Config, "a cutover back has made the source the primary again, so it may be written to").
			WithHint("To watch the primary that was left, exchange PGSLUICE_SOURCE and PGSLUICE_TARGET: pgcutover watch --slot %s", slot.Back(m.Slot))
	}
	if err != nil {
		s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// news is what a repeated look prints anew.
func (r *Report) news() string {
	return fmt.Sprint(r.Result, r.Last, r.Transactions, r.LargeObjects, r.Uncarried, r.Created, r.Reason)
}

// print prints a report: for programs, or a line for each table.
func (r *Report) print(m *session.Migration, o Options) error {
	if o.JSON {
		return json.NewEncoder(text.JSONWriter(m.Out)).Encode(r)
	}
	if r.Result != Written {
		m.Printf("%s\t%s\n", r.Result, r.Text())
		return nil
	}
	for i := range r.Tables {
		m.Printf("written\t%s\n", r.Tables[i].Text())
	}
	if r.LargeObjects != "" {
		m.Printf("written\t%s\n", r.LargeObjects)
	}
	for _, t := range r.Created {
		m.Printf("written\t%s: created or altered, and not carried\n", t)
	}
	for _, t := range r.Uncarried {
		m.Printf("written\t%s: rows updated, deleted or truncated\n", t)
	}
	return nil
}
