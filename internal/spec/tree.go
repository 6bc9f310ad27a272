package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// object keeps the order of a JSON object's members, so that faults come in
// the order of the document, and repeated members, so that they are noticed.
type object struct {
	keys   []string
	values map[string]any
	twice  []string
}

// readTree reads one JSON value into objects, []any and scalars.
func readTree(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, describeSyntax(data, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more text after the end of the document; remove it")
	}
	return v, nil
}

// describeSyntax adds the line to a syntax error.
func describeSyntax(data []byte, err error) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New(`the document is empty; the least that it can be is {"name": "web", "kernel": "/path/to/the/kernel"}`)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the document ends in the middle; a bracket or a quote is not closed")
	}
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	offset := min(int(syntax.Offset), len(data))
	return fmt.Errorf("line %d is not valid JSON: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}

func readValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the document nests deeper than %d levels; no option needs more than a few", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		return readObject(d, depth)
	case json.Delim('['):
		return readArray(d, depth)
	}
	return t, nil
}

func readObject(d *json.Decoder, depth int) (*object, error) {
	o := &object{values: map[string]any{}}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, errors.New("a member of an object has no name; give it one, or take it out")
		}
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		if _, seen := o.values[key]; seen {
			o.twice = append(o.twice, key)
			continue
		}
		o.keys = append(o.keys, key)
		o.values[key] = v
	}
	_, err := d.Token()
	return o, err
}

func readArray(d *json.Decoder, depth int) ([]any, error) {
	list := []any{}
	for d.More() {
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}
