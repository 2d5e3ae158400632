package apply

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/rename"
	"github.com/pgsluice/pgsluice/format"
)

// renamed returns an error for a recorded statement about an object that --rename changes. The
// statement has the source's names, and only a server's parser could find them all.
func (f *follower) renamed(d *format.DDL) error {
	rules := rename.Rules(f.Rename)
	if len(rules) == 0 {
		return nil
	}
	for _, o := range d.Objects {
		if len(o.Names) == 0 {
			continue
		}
		schema, name := o.Names[0], ""
		if len(o.Names) > 1 {
			name = o.Names[1]
		}
		if s, n := rules.Table(schema, name); s != schema || n != name {
			return fault.New(fault.Config,
				"cannot apply a schema change of %s %s under another name", o.Type,
				text.Ident(o.Names...)).
				WithDetail("The source executed %s, and --rename changes the name of %s.", d.Type, strings.Join(o.Names, ".")).
				WithHint("Make the same change on the target by hand, then skip its transaction: pgapply --skip-lsn %v", f.tx.commit)
		}
	}
	return nil
}
