package progress

import (
	"errors"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// inFunction matches what the server says of where it was: in a function, by its name, or by its
// signature.
var inFunction = regexp.MustCompile(`(?m)(?:SQL function "((?:[^"]|"")+)"|PL/pgSQL function ([^\n]*?\)))(?: |$)`)

// Function returns the function, called by the server itself, that did not find something with an
// empty search path, as the server names it: with its signature, or by its bare name. It is empty
// if an error is another.
func Function(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return ""
	}
	switch pg.Code {
	case "42883", "42P01", "42704", "3F000": // function, relation, type, schema
	default:
		return ""
	}
	all := inFunction.FindAllStringSubmatch(pg.Where, 1)
	if len(all) == 0 {
		return ""
	}
	return strings.TrimSpace(all[0][1] + all[0][2])
}

// reasonText is an error as it is recorded: with the function that it comes from.
func reasonText(err error) string {
	if f := Function(err); f != "" {
		return err.Error() + marked + f
	}
	return err.Error()
}

// marked is what stands between a recorded error and the function that it comes from.
const marked = "; in function "

// FunctionOf returns the function that a recorded error names.
func FunctionOf(recorded string) string {
	_, f, _ := strings.Cut(recorded, marked)
	return f
}
