package progress

import (
	"errors"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// inFunction matches the server's error context for a function, which has its name or its
// signature.
var inFunction = regexp.MustCompile(`(?m)(?:SQL function "((?:[^"]|"")+)"|PL/pgSQL function ([^\n]*?\)))(?: |$)`)

// Function returns the function, called by the server itself, that could not resolve a name because
// the search path was empty. The result is what the server reports: the signature or the bare name.
// It is empty for other errors.
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

// reasonText is an error as recorded, with the function that raised it.
func reasonText(err error) string {
	if f := Function(err); f != "" {
		return err.Error() + marked + f
	}
	return err.Error()
}

// marked separates a recorded error from the function that raised it.
const marked = "; in function "

// FunctionOf returns the function in a recorded error.
func FunctionOf(recorded string) string {
	_, f, _ := strings.Cut(recorded, marked)
	return f
}
