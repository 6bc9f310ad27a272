package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// optionalOf returns T for Optional[T], and false for any other type.
func optionalOf(t reflect.Type) (reflect.Type, bool) {
	o, ok := reflect.Zero(t).Interface().(interface{ inner() reflect.Type })
	if !ok {
		return nil, false
	}
	return o.inner(), true
}

// check appends what is wrong with v, the value at path, if it is to be decoded into
// type t.
func check(faults *Faults, path string, v any, t reflect.Type) {
	if inner, ok := optionalOf(t); ok {
		if v == nil {
			return
		}
		check(faults, path, v, inner)
		return
	}
	if t.Kind() == reflect.Pointer {
		if v == nil {
			return
		}
		check(faults, path, v, t.Elem())
		return
	}
	if t == reflect.TypeFor[ThreadPoolSize]() {
		checkThreadPool(faults, path, v)
		return
	}
	if v == nil {
		faults.Addf(path, "null is not allowed").Hintf("leave the field out for its default")
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		checkStruct(faults, path, v, t)
	case reflect.Slice:
		checkSlice(faults, path, v, t)
	case reflect.Map:
		checkMap(faults, path, v, t)
	case reflect.Interface:
	default:
		checkScalar(faults, path, v, t.Kind())
		checkZero(faults, path, v)
	}
}

func checkThreadPool(faults *Faults, path string, v any) {
	text, err := json.Marshal(v)
	if err == nil {
		err = new(ThreadPoolSize).UnmarshalJSON(text)
	}
	if err != nil {
		faults.Add(path, err)
	}
}

func checkStruct(faults *Faults, path string, v any, t reflect.Type) {
	o, ok := v.(*object)
	if !ok {
		faults.Addf(path, "must be an object, not %s", kindOf(v))
		return
	}
	known := fieldsOf(t)
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	for _, key := range o.twice {
		faults.Addf(join(path, key), "appears more than once")
	}
	for _, key := range o.keys {
		member, ok := known[key]
		if !ok {
			faults.Addf(join(path, key), "unknown option%s", suggestion(key, names)).unknown = true
			continue
		}
		check(faults, join(path, key), o.values[key], member)
	}
}

func checkSlice(faults *Faults, path string, v any, t reflect.Type) {
	list, ok := v.([]any)
	if !ok {
		faults.Addf(path, "must be a list, not %s", kindOf(v))
		return
	}
	for i, e := range list {
		check(faults, fmt.Sprintf("%s[%d]", path, i), e, t.Elem())
	}
}

func checkMap(faults *Faults, path string, v any, t reflect.Type) {
	o, ok := v.(*object)
	if !ok {
		faults.Addf(path, "must be an object, not %s", kindOf(v))
		return
	}
	for _, key := range o.twice {
		faults.Addf(join(path, key), "appears more than once")
	}
	for _, key := range o.keys {
		check(faults, join(path, key), o.values[key], t.Elem())
	}
}

func checkScalar(faults *Faults, path string, v any, want reflect.Kind) {
	switch want {
	case reflect.String:
		if _, ok := v.(string); !ok {
			faults.Addf(path, "must be a string, not %s", kindOf(v))
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			faults.Addf(path, "must be true or false, not %s", kindOf(v))
		}
	default:
		n, ok := v.(json.Number)
		if !ok {
			faults.Addf(path, "must be an integer, not %s", kindOf(v))
			return
		}
		if _, err := n.Int64(); err != nil {
			faults.Addf(path, "must be an integer, not %s", n)
		}
	}
}

var index = pattern(`\[[0-9]+\]`)

// place returns a path as table fields has it: without the indices of lists and
// without the names of the members of an object that may have any.
func place(path string) string {
	path = index().ReplaceAllString(path, "[]")
	for _, object := range []string{"binScripts", "credentialFiles", "qemu.machineOpts"} {
		if strings.HasPrefix(path, object+".") {
			return object + ".*"
		}
	}
	return path
}

// checkZero refuses an empty string or a 0 where the decoded value would look like
// that of an absent field. It also refuses a NUL byte, which no argument and no file
// name can contain.
func checkZero(faults *Faults, path string, v any) {
	at := place(path)
	switch v := v.(type) {
	case string:
		switch {
		case strings.ContainsRune(v, 0):
			faults.Addf(path, "%q contains a NUL byte", v)
		case v == "" && fields[at].empty == refused && !fields[at].required:
			faults.Addf(path, "is empty").Hintf("set a value, or leave the field out for its default")
		}
	case json.Number:
		if n, err := v.Int64(); err == nil && n == 0 && fields[at].noZero {
			faults.Addf(path, "must be at least %d, not 0", fields[at].least)
		}
	}
}

// kindOf describes a value for a message.
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("the string %q", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case json.Number:
		return "the number " + v.String()
	case []any:
		return "a list"
	}
	return "an object"
}

// fieldsOf returns the types of a struct's fields by their JSON names.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "-" {
			out[name] = t.Field(i).Type
		}
	}
	return out
}

// join appends a member's name to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
