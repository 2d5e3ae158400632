// Package docs has no code: its tests hold the documents to their rules. Package e2e runs the
// commands in them.
package docs
