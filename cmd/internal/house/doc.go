// Package house tests what no program does: that documents name what exists, that packages import
// only what is below them, and that text is wrapped where .editorconfig says. It has tests only.
package house
