package apply

import "github.com/pgsluice/pgsluice/format"

// A repair has no positions, and the target's position does not move. Its transactions are numbered
// instead: messages and --skip-lsn call the n-th one LSN n.
type repair struct{ transactions format.LSN }

// number gives a record of a repair the LSNs that a record of another stream has.
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
