package e2e

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The command that a script names to continue has no passwords: it is printed, and logged.
func TestScriptAgain(t *testing.T) {
	t.Parallel()
	e := &pgtest.Env{T: t}
	for arg, want := range map[string]string{
		"plain": "plain", "a b": `a\ b`, "postgres://u@h/x": "postgres://u@h/x", "postgres://u:s3@cret@h/x": "postgres://u:PASSWORD@h/x",
		"host=h password='s3 c\\'ret' user=u": `host=h\ password=PASSWORD\ user=u`, "x?sslpassword=s3cret&a=b": `x\?sslpassword=PASSWORD\&a=b`,
		"PGPASSWORD=s3cret x": `PGPASSWORD=PASSWORD\ x`,
	} {
		if status, out, errs := e.Run(nil, "bash", "-c", `. "$1"; set_again x "$2"; echo "$again"`, "bash", script("lib.bash"), arg); status != 0 || string(out) != "x "+want+"\n" {
			t.Errorf("%q: status %d, %q, %s", arg, status, out, errs)
		}
	}
}
