package main

import (
	"fmt"
	"os"
	"path/filepath"

	"microvm/internal/spec"
)

//go:generate go run . ../..

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: docgen REPOSITORY")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

// optionsFile contains the options of the NixOS modules, as evaluated by the tests of
// the modules.
const optionsFile = "test/nix/golden/options.json"

// write writes the chapters to docs in the repository at root.
func write(root string) error {
	chapters, err := generate(root)
	if err != nil {
		return err
	}
	for name, text := range chapters {
		if err := os.WriteFile(filepath.Join(root, "docs", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the text of each chapter by its file name.
func generate(root string) (map[string]string, error) {
	o, schema, err := load(root)
	if err != nil {
		return nil, err
	}
	options, err := OptionsChapter(o, schema)
	if err != nil {
		return nil, err
	}
	table, err := HypervisorTable()
	if err != nil {
		return nil, err
	}
	return map[string]string{"options-reference.md": options, "hypervisor-table.md": table}, nil
}

// load returns the options of the modules and the schema of the spec.
func load(root string) (o Options, schema []byte, err error) {
	data, err := os.ReadFile(filepath.Join(root, optionsFile))
	if err != nil {
		return o, nil, err
	}
	if o, err = ParseOptions(data); err != nil {
		return o, nil, err
	}
	schema = spec.Schema()
	return o, schema, nil
}
