// Package runner builds and reads runner packages: directories that define completely how
// to run one VM, as data, and as a few programs for hosts that do not read runner.json.
// docs/conventions.md describes their files.
//
// A package may come from microvm.nix or from anyone else. Its files are read with bounds
// and every name in them is validated, so a plan that this package returns contains only
// names that are safe to use.
package runner
