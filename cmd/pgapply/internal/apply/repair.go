package apply

import "github.com/pgsluice/pgsluice/format"

// A repair has no positions: its transactions are numbered, so that they can be told apart, and the
// target's position stays where it is. The n-th one has LSN n in messages, and for --skip-lsn.
type repair struct{ transactions format.LSN }

// number gives a record of a repair the LSNs that all others have.
func (r *repair) number(rec format.Record) {
	switch x := rec.(type) {
	case *format.Begin:
		r.transactions++
		x.CommitLSN = r.transactions
	case *format.Commit:
		x.CommitLSN, x.EndLSN = r.transactions, r.transactions
	case *format.StreamCommit:
		r.transactions++
		x.CommitLSN, x.EndLSN = r.transactions, r.transactions
	case *format.Prepare:
		x.PrepareLSN = r.transactions
	case *format.CommitPrepared:
		r.transactions++
		x.CommitLSN, x.EndLSN = r.transactions, r.transactions
	case *format.Progress:
		x.LSN = 0
	}
}
