package check

// catalogue has the ids of all findings, by their section of docs/checks.md. An id never changes
// its meaning: scripts compare it.
var catalogue = []struct {
	section string // the heading's anchor
	ids     []string
}{
	{"the-pair", []string{
		"same-database", "source-is-target", "source-version", "target-version", "version-order", "not-examined",
		"citus-source", "pooler", "connections", "connection-limit", "lock-room", "xid-age", "multixact-age", "size",
	}},
	{"wal-and-slots", []string{
		"slot", "wal-level", "replication-slots", "wal-senders", "output-plugin", "slot-wal-limit",
		"slot-idle-timeout", "long-transactions", "hidden-transactions", "prepared-transactions", "slot-to-resume",
		"wal-sender-timeout", "wal-rate", "slot-wal-time", "other-slots", "source-standbys", "other-publications",
	}},
	{"rights", []string{
		"replication-right", "publication-right", "database-owner", "session-rights", "table-owners", "unreadable",
		"row-security", "unreadable-large-objects", "target-create-right", "replica-role", "target-owner",
		"target-session-rights",
	}},
	{"tables-and-rows", []string{
		"tables", "replica-identity", "unlogged-tables", "detach-pending", "truncate-not-decoded", "large-objects",
		"foreign-key-orphans", "foreign-keys-unexamined", "function-path", "invalid-indexes",
		"not-valid-constraints", "deferrable-constraints", "generated-keys", "identity-full", "long-keys", "oid-columns",
		"always-triggers", "rules", "sequence-end", "sequences-hidden", "foreign-tables", "user-mappings",
		"types-missing", "security-labels", "tablespaces",
	}},
	{"who-writes", []string{
		"source-fenced", "source-read-only", "write-exempt-roles", "source-subscriptions", "connect-grants", "returning-sessions", "lasting-sessions",
	}},
	{"text-and-settings", []string{
		"encoding", "database-collation", "collation-version", "collations-missing", "column-collations",
		"column-collation-versions", "settings-differ", "settings-unknown", "libraries-missing",
		"libraries-hidden",
	}},
	{"extensions-and-roles", []string{
		"extensions-missing", "extensions-unlisted", "roles-missing", "role-membership", "superuser-owners",
		"schema-create-right", "extensions-denied", "extension-versions", "superuser-objects", "role-attributes",
		"role-members",
	}},
	{"the-target", []string{
		"target-state", "target-not-empty", "tables-missing", "changes-lost", "standby-missing", "way-back",
		"target-max-wal-size", "target-autovacuum", "target-durability", "target-sync-standby", "target-read-only",
		"target-subscriptions", "target-event-triggers", "citus", "citus-worker", "citus-keys",
	}},
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
