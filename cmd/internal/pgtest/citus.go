package pgtest

import (
	"fmt"
	"os"
	"testing"
)

// A Cluster is a database of a Citus cluster: a coordinator, which has shards as well, and a
// worker.
type Cluster struct {
	*DB    // on the coordinator
	Worker *DB
}

// Citus creates a database on a cluster of two servers, which the tests of a package share. No
// package archive has Citus. Without PGSLUICE_CITUS_BIN, the test is skipped, and says so.
func Citus(t testing.TB) *Cluster {
	t.Helper()
	bin := os.Getenv("PGSLUICE_CITUS_BIN")
	if bin == "" {
		t.Skip("not run: set PGSLUICE_CITUS_BIN to the directory of postgres and initdb of an installation with Citus")
	}
	name := fmt.Sprintf("t%d", databases.Add(1))
	c := &Cluster{clusterDB(t, bin, "coordinator", name), clusterDB(t, bin, "worker", name)}
	c.Exec(fmt.Sprintf(`SELECT citus_set_coordinator_host('127.0.0.1', %d); SELECT citus_add_node('127.0.0.1', %d);
		SELECT citus_set_node_property('127.0.0.1', %[1]d, 'shouldhaveshards', true)`, c.Port, c.Worker.Port))
	return c
}

// clusterDB creates a database on one server of the cluster. It is dropped with the server.
func clusterDB(t testing.TB, bin, role, name string) *DB {
	t.Helper()
	s, err := clusterServer(bin, role)
	if err != nil {
		t.Fatal(err)
	}
	(&DB{Server: s, Name: "postgres", URI: s.URI("postgres"), t: t}).Exec("CREATE DATABASE " + name)
	d := &DB{Server: s, Name: name, URI: s.URI(name), t: t}
	d.Exec("CREATE EXTENSION citus")
	return d
}

func clusterServer(bin, role string) (*Server, error) {
	shared.Lock()
	defer shared.Unlock()
	key := "citus " + role
	if s := shared.servers[key]; s != nil {
		return s, nil
	}
	s, err := startFrom(bin, []string{"shared_preload_libraries=citus", "citus.node_conninfo=sslmode=disable", "citus.shard_count=4",
		"citus.enable_statistics_collection=off", "max_prepared_transactions=100"})
	if err != nil {
		return nil, err
	}
	if shared.servers == nil {
		shared.servers = make(map[string]*Server)
	}
	shared.servers[key] = s
	return s, nil
}
