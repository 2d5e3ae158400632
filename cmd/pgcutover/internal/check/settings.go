package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
)

// seen are the settings that change what an application's statements mean or return.
var seen = []string{"timezone", "default_transaction_isolation", "search_path", "array_nulls", "datestyle", "intervalstyle",
	"standard_conforming_strings", "bytea_output", "lc_messages", "lc_monetary", "lc_numeric", "lc_time", "default_text_search_config",
	"transform_null_equals", "xmloption", "statement_timeout", "idle_in_transaction_session_timeout"}

// presets compares the settings that new sessions of an application get. Ours have their own.
func (c *checker) presets() error {
	var values [2]map[string]string
	var failed [2]error
	done := make(chan struct{})
	names := append([]string{"default_transaction_read_only"}, seen...)
	go func() {
		defer close(done)
		values[source], failed[source] = c.m.Source.Presets(c.ctx, names)
	}()
	values[target], failed[target] = c.m.Target.Presets(c.ctx, names)
	<-done
	for side, err := range failed {
		if err != nil {
			c.note("settings-unknown", "the settings of new sessions on the %s could not be read: %v", []string{"source", "target"}[side], err)
			return nil
		}
	}
	var differ, sql []string
	for _, name := range seen {
		if s, t := values[source][name], values[target][name]; s != t && !sameZone(name, s, t) {
			differ = append(differ, fmt.Sprintf("%s is %q on the source and %q on the target", name, s, t))
			if name != "search_path" { // a list, which a literal cannot hold
				sql = append(sql, "ALTER DATABASE "+c.targetDatabase+" SET "+name+" = "+text.Literal(s)+";")
			}
		}
	}
	if len(differ) > 0 {
		c.warn("settings-differ", "Set what the application relies on; a path with ALTER DATABASE … SET search_path = …", "new sessions have other settings: %s", strings.Join(differ, "; ")).
			do("target", superuser, sql...)
	}
	if values[target]["default_transaction_read_only"] == "on" {
		c.warn("target-read-only", "At the cutover, on the target: ALTER DATABASE "+c.targetDatabase+" RESET default_transaction_read_only, or the same for the role.",
			"new sessions on the target are read-only")
	}
	return nil
}

// sameZone reports whether two time zones are names of UTC.
func sameZone(name, a, b string) bool {
	utc := []string{"UTC", "Etc/UTC", "GMT", "Etc/GMT", "UCT", "Zulu"}
	return name == "timezone" && slices.Contains(utc, a) && slices.Contains(utc, b)
}

// libraries compares the libraries that both servers load when they start.
func (c *checker) libraries() error {
	s, may := c.setting[source]["shared_preload_libraries"]
	t, mayToo := c.setting[target]["shared_preload_libraries"]
	if !may || !mayToo {
		c.note("libraries-hidden", "our roles may not see shared_preload_libraries on both sides: compare it yourself")
		return nil
	}
	have := strings.FieldsFunc(t, comma)
	missing := slices.DeleteFunc(strings.FieldsFunc(s, comma), func(l string) bool { return slices.Contains(have, l) })
	if len(missing) > 0 {
		c.warn("libraries-missing", "If the application needs them, add them to shared_preload_libraries and restart the target."+c.where(target),
			"the source loads libraries at its start that the target does not load: %s", count.Some(missing))
	}
	return nil
}

func comma(r rune) bool { return r == ',' || r == ' ' || r == '"' }

// loading looks at settings of the target that slow down a load or endanger its result.
func (c *checker) loading() error {
	if c.setting[target]["autovacuum"] == "off" || c.setting[target]["track_counts"] == "off" {
		c.warn("target-autovacuum", "Switch both on before the cutover."+c.where(target), "autovacuum or track_counts is off on the target: nobody vacuums and analyzes what is loaded").
			do(c.m.Target.Side, superuser, append(c.reload(target, "track_counts", "on"), c.reload(target, "autovacuum", "on")...)...)
	}
	if c.setting[target]["fsync"] == "off" || c.setting[target]["full_page_writes"] == "off" {
		// Only a test server is like that.
		c.note("target-durability", "fsync or full_page_writes is off on the target: a crash of its machine loses data that the source has already been told is safe").
			Remedy = "Switch both on before sync begins." + c.where(target)
	}
	if names := c.setting[target]["synchronous_standby_names"]; names != "" {
		c.note("target-sync-standby", "commits on the target wait for standbys (synchronous_standby_names is %q): load and sync do not wait, the cutover does", names)
	}
	return nil
}

// subscribed looks for subscriptions of the target, which write to it beside us.
func (c *checker) subscribed() error {
	list, err := fencing.Subscriptions(c.ctx, c.t)
	if err == nil && len(list) > 0 {
		c.warn("target-subscriptions", "Disable them if they write to tables of the migration: "+strings.Join(fencing.Disable(list), " "),
			"the target takes changes from %s: %s", count.Word(len(list), "a subscription", "subscriptions"), count.Some(list))
	}
	return err
}

// poolers looks for a pooler or proxy between us and a server: the process that it names for
// cancelling is not the one that serves us.
func (c *checker) poolers() error {
	for side, conn := range []*pgx.Conn{c.s, c.t} {
		if pid := strconv.FormatUint(uint64(conn.PgConn().PID()), 10); c.pid[side] != pid {
			c.warn("pooler", "Connect to the server itself: a replication session, a snapshot and a lock need a session of their own.",
				"the connection to the %s passes a pooler or a proxy", []string{"source", "target"}[side])
		}
	}
	return nil
}
