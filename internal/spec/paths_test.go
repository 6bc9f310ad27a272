package spec

import (
	"encoding/json"
	"strings"
	"testing"
)

// pathFields are all fields that hold a path of the VM's own directory.
var pathFields = map[string]struct {
	// directory fields take the VM's directory itself; sockets are in it in any case.
	directory, socket bool
	document          func(path string) map[string]any
	value             func(*Spec) string
}{
	"volumes[0].image": {
		document: func(p string) map[string]any {
			return map[string]any{"volumes": []any{map[string]any{"image": p, "autoCreate": false}}}
		},
		value: func(s *Spec) string { return s.Volumes[0].Image },
	},
	"shares[0].source, 9p": {
		directory: true,
		document: func(p string) map[string]any {
			return map[string]any{"shares": []any{map[string]any{"tag": "a", "source": p}}}
		},
		value: func(s *Spec) string { return s.Shares[0].Source },
	},
	"shares[0].source, virtiofs": {
		directory: true,
		document: func(p string) map[string]any {
			return map[string]any{"shares": []any{map[string]any{"tag": "a", "source": p, "proto": "virtiofs"}}}
		},
		value: func(s *Spec) string { return s.Shares[0].Source },
	},
	"shares[0].socket": {
		socket: true,
		document: func(p string) map[string]any {
			return map[string]any{"shares": []any{map[string]any{"tag": "a", "source": "/srv", "proto": "virtiofs", "socket": p}}}
		},
		value: func(s *Spec) string { return *s.Shares[0].Socket.Value },
	},
	"socket": {
		socket:   true,
		document: func(p string) map[string]any { return map[string]any{"socket": p} },
		value:    func(s *Spec) string { return *s.Socket.Value },
	},
	"graphics.socket": {
		socket: true,
		document: func(p string) map[string]any {
			return map[string]any{"graphics": map[string]any{"enable": true, "socket": p}}
		},
		value: func(s *Spec) string { return s.Graphics.Socket },
	},
}

// TestPathsOfTheVMsDirectory: what a path means, in each field that has one.
func TestPathsOfTheVMsDirectory(t *testing.T) {
	const own, refused = "/var/lib/microvms/web/", "refused"
	for name, field := range pathFields {
		absolute := func(path, inside string) string {
			if field.socket {
				return inside
			}
			return path
		}
		wants := map[string]string{
			"x": "x", "./x": "x", "sub/x": "sub/x", "sub/./x": "sub/x", "sub//x": "sub/x", "././sub/x": "sub/x",
			own + "x":       absolute(own+"x", "x"),
			own + "./sub/x": absolute(own+"./sub/x", "sub/x"),
			"/srv/x":        absolute("/srv/x", refused),
			".":             refused, "./.": refused, "..": refused, "../x": refused, "sub/../x": refused, "": refused,
		}
		if field.directory {
			wants["."], wants["./."] = ".", "."
		}
		for path, want := range wants {
			document := field.document(path)
			document["name"], document["kernel"] = "web", "/k"
			data, err := json.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Parse(data)
			at, _, _ := strings.Cut(name, ",")
			switch {
			case want == refused:
				if err == nil || !strings.Contains(err.Error(), at+": ") {
					t.Errorf("%s %q: %v, want it refused", name, path, err)
				}
			case err != nil:
				t.Errorf("%s %q: %v", name, path, err)
			case field.value(s) != want:
				t.Errorf("%s %q is %q, want %q", name, path, field.value(s), want)
			}
		}
	}
}

// TestTheSamePathIsNoticedHoweverItIsWritten: a socket, and an image.
func TestTheSamePathIsNoticedHoweverItIsWritten(t *testing.T) {
	for _, rest := range []string{
		`"socket":"a.sock","shares":[{"tag":"a","source":"/srv","proto":"virtiofs","socket":"/var/lib/microvms/web/a.sock"}]`,
		`"volumes":[{"image":"./a","autoCreate":false},{"image":"/var/lib/microvms/web/a","autoCreate":false}]`,
	} {
		if _, err := Parse([]byte(`{"name":"web","kernel":"/k",` + rest + `}`)); err == nil || !strings.Contains(err.Error(), "is already used by") {
			t.Errorf("%s: %v", rest, err)
		}
	}
}
