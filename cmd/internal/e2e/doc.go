// Package e2e tests the whole pipe on real servers: what the README promises, and what happens when
// something is cut, damaged, killed or configured wrongly. It has tests only.
package e2e
