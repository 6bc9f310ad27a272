// Package term writes to terminals and reads from them: colour, tables, progress,
// questions and single lines of text.
package term
