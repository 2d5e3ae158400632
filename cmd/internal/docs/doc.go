// Package docs has no code. Its tests check that the documents follow their rules. Package e2e runs
// the commands in them.
package docs
