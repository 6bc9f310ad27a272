package spec

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

// source is the file that declares the types: the schema's descriptions are
// its comments, so that the two cannot differ.
//
//go:embed spec.go
var source string

// Schema returns the JSON Schema (draft 2020-12) of a spec.
func Schema() ([]byte, error) {
	docs, err := comments(source)
	if err != nil {
		return nil, err
	}
	g := &generator{docs: docs}
	root := g.object("", reflect.TypeFor[Spec]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "microvm spec"
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema: %w", err)
	}
	return append(out, '\n'), nil
}

// comments maps TYPE.FIELD to the field's comment.
func comments(source string) (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "spec.go", source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read the types' comments: %w", err)
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		t, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		s, ok := t.Type.(*ast.StructType)
		if !ok {
			return false
		}
		for _, f := range s.Fields.List {
			for _, name := range f.Names {
				docs[t.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
		return false
	})
	return docs, nil
}

// required fields have no default.
var required = map[string]bool{
	"name": true, "kernel": true,
	"interfaces[].type": true, "interfaces[].id": true, "interfaces[].mac": true,
	"volumes[].image": true, "shares[].tag": true, "shares[].source": true,
	"devices[].bus": true, "devices[].path": true, "qemu.pcieRootPorts[].id": true,
	"forwardPorts[].host": true, "forwardPorts[].guest": true,
	"forwardPorts[].host.port": true, "forwardPorts[].guest.port": true,
}

// fixedDefaults are the defaults that depend on nothing else.
var fixedDefaults = map[string]any{
	"hypervisor": DefaultHypervisor, "vcpu": DefaultVCPU, "mem": DefaultMem,
	"hugepageMem": false, "hotplugMem": 0, "balloon": false, "initialBalloonMem": 0, "deflateOnOOM": true,
	"prettyProcnames": true, "registerWithMachined": false,
	"interfaces[].tap.vhost": false,
	"forwardPorts[].from":    "host", "forwardPorts[].proto": "tcp",
	"volumes[].direct": false, "volumes[].readOnly": false, "volumes[].shared": false, "volumes[].autoCreate": true,
	"volumes[].fsType": DefaultFSType, "volumes[].imageType": "raw",
	"shares[].proto": "9p", "shares[].securityModel": "none", "shares[].readOnly": false,
	"shares[].cache": "auto", "shares[].posixAcl": true,
	"vsock.ssh.shutdown": true,
	"graphics.enable":    false, "graphics.backend": "gtk", "graphics.hostmem": "256M",
	"virtiofsd.inodeFileHandles": "prefer", "virtiofsd.threadPoolSize": nprocWord, "virtiofsd.group": "kvm",
	"qemu.serialConsole": true, "cloud-hypervisor.landlock": true, "firecracker.driveIoEngine": "Async",
}

type generator struct{ docs map[string]string }

// node is the schema of one type at a path.
func (g *generator) node(path string, t reflect.Type) map[string]any {
	if inner, ok := optionalOf(t); ok {
		return nullable(g.node(path, inner))
	}
	if t == reflect.TypeFor[ThreadPoolSize]() {
		return map[string]any{"oneOf": []any{
			map[string]any{"type": "integer", "minimum": 0},
			map[string]any{"type": "string", "pattern": "^([0-9]+|`nproc`)$"},
		}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return nullable(g.node(path, t.Elem()))
	case reflect.Struct:
		return g.object(path, t)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": g.node(path+"[]", t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.node(path+".*", t.Elem())}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		n := map[string]any{"type": "integer"}
		if notZero[path] != "" {
			n["minimum"] = 1
		}
		return n
	case reflect.String:
		n := map[string]any{"type": "string"}
		if refusesEmpty(path) && enums[path] == nil {
			n["minLength"] = 1
		}
		return n
	}
	return map[string]any{} // any JSON value
}

func nullable(n map[string]any) map[string]any {
	if kind, ok := n["type"].(string); ok {
		n["type"] = []any{kind, "null"}
		return n
	}
	return map[string]any{"anyOf": []any{n, map[string]any{"type": "null"}}}
}

func (g *generator) object(path string, t reflect.Type) map[string]any {
	properties := map[string]any{}
	var needed []string
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		at := join(path, name)
		n := g.node(at, field.Type)
		if doc := g.docs[t.Name()+"."+field.Name]; doc != "" {
			n["description"] = doc
		}
		if values, ok := enums[at]; ok {
			n["enum"] = values
			if _, isNullable := n["type"].([]any); isNullable {
				n["enum"] = append(toAny(values), nil)
			}
		}
		if def, ok := fixedDefaults[at]; ok {
			n["default"] = def
		}
		if required[at] {
			needed = append(needed, name)
		}
		properties[name] = n
	}
	o := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	if needed != nil {
		o["required"] = needed
	}
	return o
}

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}
