package check

import (
	"fmt"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// paths looks for functions that rely on their caller's search path although the server itself
// calls them: to load rows, to build an index, or to fill a materialized view. The server calls
// them with an empty search path.
func (c *checker) paths() error {
	list, err := catalog.PathBoundFunctions(c.ctx, c.s)
	if err != nil {
		return err
	}
	for _, p := range list {
		says := fmt.Sprintf("function %s finds %s by the search path of its caller, which is empty where it is used: %s",
			p.Signature, strings.Join(p.Names, ", "), count.Some(p.UsedBy))
		remedy := "It goes by the function's text. Name its schemas in it, or give it a path of its own:"
		f := func() *finding {
			if p.Needed {
				return c.need("function-path", remedy, "%s", says)
			}
			return c.warn("function-path", remedy, "%s", says)
		}()
		if text.Escape(p.Signature) != p.Signature {
			continue // it cannot be printed as it is
		}
		f.do("source", superuser, p.Statement())
	}
	return nil
}
