package check

// catalogue has the ids of all findings, by their section of docs/checks.md. An id never changes
// its meaning: scripts compare it.
var catalogue = []struct {
	section string // the heading's anchor
	ids     []string
}{
	{"the-pair", []string{"same-database", "source-is-target", "source-version", "target-version", "version-order", "not-examined"}},
	{"wal-and-slots", []string{"slot", "wal-level", "replication-slots", "wal-senders", "output-plugin", "slot-wal-limit",
		"slot-idle-timeout", "long-transactions", "hidden-transactions", "prepared-transactions"}},
	{"rights", []string{"replication-right", "publication-right", "database-owner", "session-rights", "table-owners", "unreadable",
		"row-security", "unreadable-large-objects", "target-create-right", "replica-role", "target-owner", "target-session-rights"}},
	{"tables-and-rows", []string{"tables", "replica-identity", "unlogged-tables", "detach-pending", "truncate-not-decoded",
		"large-objects", "foreign-key-orphans", "foreign-keys-unexamined", "function-path"}},
	{"who-writes", []string{"write-exempt-roles", "source-subscriptions", "connect-grants", "returning-sessions", "lasting-sessions"}},
	{"text-and-settings", []string{"encoding", "database-collation", "collation-version", "collations-missing", "column-collations",
		"column-collation-versions"}},
	{"extensions-and-roles", []string{"extensions-missing", "extensions-unlisted", "roles-missing", "role-membership",
		"superuser-owners", "schema-create-right"}},
	{"the-target", []string{"target-state", "target-not-empty", "tables-missing", "changes-lost", "standby-missing", "way-back"}},
}

// doc returns where an id is explained.
func doc(id string) string {
	for _, s := range catalogue {
		for _, x := range s.ids {
			if x == id {
				return "docs/checks.md#" + s.section
			}
		}
	}
	return ""
}
