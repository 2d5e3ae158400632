package write

import (
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/format"
)

// Fingerprint stores what an object of the source was. The fingerprints of an earlier load stay,
// because that load created the objects of the target.
func (l *Loader) Fingerprint(r *format.Fingerprint) error {
	l.fingerprints = append(l.fingerprints, progress.Fingerprint(*r))
	const batch = 2000
	if len(l.fingerprints) < batch {
		return nil
	}
	return l.keepFingerprints("source")
}

func (l *Loader) keepFingerprints(side string) error {
	list := l.fingerprints
	l.fingerprints = l.fingerprints[:0]
	return l.Server.Explain(progress.AddFingerprints(l.ctx, l.Control, l.Stream.ID, side, list))
}

// fingerprintTarget stores what the objects of the target are after the load has created them.
func (l *Loader) fingerprintTarget() error {
	if err := l.keepFingerprints("source"); err != nil {
		return err
	}
	list, err := inventory.Read(l.ctx, l.Control)
	if err != nil {
		return l.Server.Explain(err)
	}
	for i := range list {
		o := &list[i]
		f := format.Fingerprint{Class: o.Class, Schema: o.Schema, Table: o.Table, Name: o.Name}
		f.Definition, f.Facts = o.Fingerprint()
		l.fingerprints = append(l.fingerprints, progress.Fingerprint(f))
	}
	return l.keepFingerprints("target")
}
