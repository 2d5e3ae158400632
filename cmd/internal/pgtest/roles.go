package pgtest

import "strings"

// LeastPrivilege makes a role on both sides by the SQL that pgcutover roles prints for databases
// as they are now. It has the programs connect as that role.
func (e *Env) LeastPrivilege(source, target *DB, role string) {
	e.T.Helper()
	for side, d := range map[string]*DB{"source": source, "target": target} {
		d.Exec(e.roles(source, target, side, role))
	}
	e.Source, e.Target = source.As(role, ""), target.As(role, "")
}

// DropLeastPrivilege takes back what LeastPrivilege has given, and drops the role.
func (e *Env) DropLeastPrivilege(source, target *DB, role string) {
	e.T.Helper()
	for side, d := range map[string]*DB{"source": source, "target": target} {
		d.Exec("BEGIN READ WRITE; " + e.roles(source, target, side, role, "--drop") + "COMMIT")
	}
}

func (e *Env) roles(source, target *DB, side, role string, args ...string) string {
	e.T.Helper()
	out := string(e.Must(nil, "pgcutover", append([]string{"roles", "--provider", "plain", "--side", side, "--role", role,
		"--source", source.URI, "--target", target.URI}, args...)...))
	if strings.Contains(out, "assword '") {
		e.T.Errorf("a password is printed:\n%s", out)
	}
	return out
}
