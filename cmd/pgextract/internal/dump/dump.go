package dump

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Options say what to dump.
type Options struct {
	DSN      string // as given by the user; a password in it is passed on in the environment
	Password string
	// command-line options of the server for pg_dump's session (pgdial.Server.Options)
	Settings string
	App      string // application_name, unless DSN has one
	Version  int    // of the source, as server_version_num
	Snapshot string // to be read with
	Args     []string
}

// Schema runs pg_dump. It returns the objects of the schema, in an order in which they can be
// created, and the warnings of pg_dump.
func Schema(ctx context.Context, o Options) (entries []Entry, warnings []string, err error) {
	program, err := find(ctx, o.Version)
	if err != nil {
		return nil, nil, err
	}
	args := append([]string{"--format=custom", "--schema-only", "--no-password"}, o.Args...)
	if o.Snapshot != "" {
		args = append(args, "--snapshot="+o.Snapshot)
	}
	args = append(args, "--dbname="+withOptions(withoutPassword(o.DSN), o.Settings))
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "PGAPPNAME="+o.App)
	if o.Password != "" {
		cmd.Env = append(cmd.Env, "PGPASSWORD="+o.Password)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	entries, tocErr := readTOC(out)
	// An archive of a schema has nothing behind its table of contents that we need.
	if err := cmd.Wait(); err != nil {
		reason := firstLine(stderr.String(), err)
		if strings.Contains(reason, "permission denied") { // it prints no SQLSTATE
			return nil, nil, fault.New(fault.Permission, "pg_dump failed: %s", reason).
				WithHint("The source's role must be able to read all tables (PostgreSQL 14 and newer: GRANT pg_read_all_data TO …), or own them.")
		}
		if lost.MatchString(stderr.String()) {
			return nil, nil, fault.New(fault.TryAgain, "pg_dump failed: %s", reason).
				WithHint("It has lost its session or the snapshot. Start again with --resume.")
		}
		return nil, nil, fault.New(fault.Failed, "pg_dump failed: %s", reason).
			WithHint("Run it by hand to see its full output: %s --schema-only. Or create the schema by hand and use --data-only.",
				text.Shell(program))
	}
	return entries, warningsIn(stderr.String()), tocErr
}

// lost matches what pg_dump says if it cannot reach the server, or loses its session, or if the
// session that holds the snapshot is lost.
var lost = regexp.MustCompile(`server closed the connection|terminating connection|could not (?:receive|send) data|SSL SYSCALL|` +
	`no connection to the server|Connection (?:refused|reset|timed out)|timeout expired|the database system is |` +
	`invalid snapshot identifier|snapshot "[^"]*" does not exist`)

// warningsIn returns the messages of a pg_dump that has succeeded. It joins a detail or hint to the
// warning before it.
func warningsIn(stderr string) (list []string) {
	for line := range strings.Lines(stderr) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "pg_dump: ")
		switch {
		case line == "", strings.Contains(line, "WITH OIDS is not supported"):
			// pgextract names these tables itself, also without pg_dump
		case len(list) > 0 && (strings.HasPrefix(line, "detail: ") || strings.HasPrefix(line, "hint: ")):
			list[len(list)-1] += "; " + line
		default:
			list = append(list, strings.TrimPrefix(strings.TrimPrefix(line, "warning: "), "WARNING: "))
		}
	}
	return list
}

func firstLine(s string, err error) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return err.Error()
	}
	return strings.TrimPrefix(strings.Split(s, "\n")[0], "pg_dump: ")
}

var versionNumber = regexp.MustCompile(`\(PostgreSQL\) (\d+)(?:\.(\d+))?`)

// find returns the pg_dump to use: the one on PATH, or else the newest that is installed. It never
// returns one that is older than the source.
func find(ctx context.Context, version int) (string, error) {
	var programs []string
	if p, err := exec.LookPath("pg_dump"); err == nil {
		programs = append(programs, p)
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
	sort.Sort(sort.Reverse(sort.StringSlice(installed)))
	var found []string
	for _, p := range append(programs, installed...) {
		out, err := exec.CommandContext(ctx, p, "--version").Output()
		m := versionNumber.FindStringSubmatch(string(out))
		if err != nil || m == nil {
			continue
		}
		major, _ := strconv.Atoi(m[1])
		minor, _ := strconv.Atoi(m[2])
		have := major * 10000
		need := version / 10000 * 10000
		if major < 10 {
			have, need = major*10000+minor*100, version/100*100
		}
		if have >= need {
			return p, nil
		}
		found = append(found, m[1])
	}
	e := fault.New(fault.Config, "no pg_dump of version %d or newer is installed", version/10000).
		WithHint("Install the client programs of the source's version (package postgresql-client-%d), or create the schema by hand and use --data-only.",
			version/10000)
	if len(found) > 0 {
		e = e.WithDetail("Installed versions: %s.", strings.Join(found, ", "))
	}
	return "", e
}

// withoutPassword returns a connection string without its passwords, which others could see on a
// command line. It parses URIs by hand, because package url rejects those with several hosts.
func withoutPassword(dsn string) string {
	scheme, rest, uri := strings.Cut(dsn, "://")
	if !uri || scheme != "postgres" && scheme != "postgresql" {
		return keywordPassword.ReplaceAllString(dsn, "$1")
	}
	authority, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, _, _ := strings.Cut(authority[:at], ":")
		authority = user + authority[at:]
	}
	return scheme + "://" + uriPassword.ReplaceAllString(authority+path, "$1")
}

// withOptions returns a connection string that asks for these command-line options of the server,
// and no others: neither its own nor those of the environment or of a service file.
func withOptions(dsn, options string) string {
	if scheme, rest, uri := strings.Cut(dsn, "://"); uri && (scheme == "postgres" || scheme == "postgresql") {
		sep := "?"
		if strings.Contains(rest, "?") {
			sep = "&"
		}
		return dsn + sep + "options=" + strings.ReplaceAll(url.QueryEscape(options), "+", "%20")
	}
	return strings.TrimSpace(dsn + " options='" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(options) + "'")
}

var (
	// keywordPassword matches password=… in a keyword string, quoted or not, uriPassword in a URI.
	keywordPassword = regexp.MustCompile(`(^|\s)(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)+)`)
	uriPassword     = regexp.MustCompile(`([?&])(?:ssl)?password=[^&]*`)
)

// OwnerSQL returns the statement that gives the object to its owner; "" for kinds that have none.
func (e *Entry) OwnerSQL() string {
	if e.Owner == "" || e.DropSQL == "" && e.Desc != "LARGE OBJECT" {
		return ""
	}
	var object string
	switch e.Desc {
	case "COLLATION", "CONVERSION", "DOMAIN", "FOREIGN TABLE", "MATERIALIZED VIEW", "SEQUENCE", "STATISTICS", "TABLE",
		"TEXT SEARCH DICTIONARY", "TEXT SEARCH CONFIGURATION", "TYPE", "VIEW":
		object = e.Desc + " " + quote(e.Schema) + "." + quote(e.Tag)
	case "PROCEDURAL LANGUAGE", "SCHEMA", "EVENT TRIGGER", "FOREIGN DATA WRAPPER", "SERVER", "PUBLICATION", "SUBSCRIPTION":
		object = strings.TrimPrefix(e.Desc, "PROCEDURAL ") + " " + quote(e.Tag)
	case "AGGREGATE", "FUNCTION", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURE":
		// Their arguments are part of their identity, and stand in the statement that drops them.
		object = strings.TrimRight(strings.TrimPrefix(e.DropSQL, "DROP "), ";\n")
	default:
		return ""
	}
	return "ALTER " + object + " OWNER TO " + quote(e.Owner) + ";"
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
