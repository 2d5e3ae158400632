// Package deploy tests the files that deploy the programs: scripts/install, the Dockerfile, the
// packages of goreleaser, and the files for systemd and Kubernetes.
//
// The tests check the contents of the files. If systemd-analyze, kubectl or goreleaser is
// installed, the tests run it as well.
package deploy
