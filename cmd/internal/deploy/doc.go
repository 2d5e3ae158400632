// Package deploy has the tests of what brings the programs to where they run: scripts/install, the
// Dockerfile, the packages of goreleaser, and the files for systemd and Kubernetes.
//
// They check what is written there by themselves. Where systemd-analyze, kubectl or goreleaser is
// installed, it has its say, too.
package deploy
