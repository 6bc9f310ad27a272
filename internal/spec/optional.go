package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
)

// Optional is a JSON value that may be absent, null or set; the zero value is
// absent. Fields of this type need the omitzero tag.
type Optional[T any] struct {
	// Present is true if the document has the field, even as null.
	Present bool
	// Value is nil where the field is absent or null.
	Value *T
}

// Some returns an Optional that is set to v.
func Some[T any](v T) Optional[T] { return Optional[T]{Present: true, Value: &v} }

// inner returns T.
func (Optional[T]) inner() reflect.Type { return reflect.TypeFor[T]() }

// Or returns the value, or def if it is absent or null.
func (o Optional[T]) Or(def T) T {
	if o.Value == nil {
		return def
	}
	return *o.Value
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	o.Present = true
	o.Value = nil
	if bytes.Equal(bytes.TrimSpace(b), []byte("null")) {
		return nil
	}
	o.Value = new(T)
	return json.Unmarshal(b, o.Value)
}

// MarshalJSON implements json.Marshaler.
func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// ThreadPoolSize is virtiofsd's number of worker threads: a count, or NProc.
type ThreadPoolSize struct {
	// NProc asks for one thread for each core of the host.
	NProc bool
	// Count is used where NProc is false; 0 means no pool.
	Count int
}

// nprocWord is the value of the option that means one thread per core.
const nprocWord = "`nproc`"

// UnmarshalJSON accepts a number, a string of digits, or nprocWord.
func (t *ThreadPoolSize) UnmarshalJSON(b []byte) error {
	*t = ThreadPoolSize{}
	text := string(bytes.TrimSpace(b))
	var s string
	if json.Unmarshal(b, &s) == nil {
		text = s
	}
	if text == nprocWord {
		t.NProc = true
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return fmt.Errorf("must be an integer of at least 0 or \"%s\", not %s", nprocWord, b)
	}
	t.Count = n
	return nil
}

// MarshalJSON implements json.Marshaler.
func (t ThreadPoolSize) MarshalJSON() ([]byte, error) {
	if t.NProc {
		return json.Marshal(nprocWord)
	}
	return json.Marshal(t.Count)
}
