// Package house has only tests, of the repository rather than of a program: documents name things
// that exist, packages import only packages of lower layers, and text is wrapped as .editorconfig
// says.
package house
