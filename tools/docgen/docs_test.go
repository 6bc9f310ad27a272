package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"microvm/internal/spec"
)

var (
	link    = regexp.MustCompile(`\]\((\.[^)#]*|#[^)]*)?(#[^)]*)?\)`)
	include = regexp.MustCompile(`\{\{#include ([^}]+)\}\}`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	block   = regexp.MustCompile("(?ms)^```json\n(.*?)^```$")
)

func chapters(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(docs + "*.md")
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d chapters: %v", len(files), err)
	}
	out := map[string]string{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(data)
	}
	return out
}

// anchor returns mdBook's anchor of a heading.
func anchor(title string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(title) {
		switch {
		case c == ' ':
			b.WriteByte('-')
		case c == '-', c == '_', c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			b.WriteRune(c)
		}
	}
	return b.String()
}

func TestLinksOfTheHandbookLead(t *testing.T) {
	all := chapters(t)
	for name, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, fragment := strings.TrimPrefix(m[1], "./"), strings.TrimPrefix(m[2], "#")
			if strings.HasPrefix(target, "#") || target == "" {
				target, fragment = name, strings.TrimPrefix(target+m[2], "#")
			}
			goal, ok := all[target]
			if !ok {
				t.Errorf("%s: chapter %s not found", name, target)
				continue
			}
			var anchors []string
			for _, h := range heading.FindAllStringSubmatch(goal, -1) {
				anchors = append(anchors, anchor(h[1]))
			}
			if fragment != "" && !slices.Contains(anchors, fragment) {
				t.Errorf("%s: heading %q not found in %s, which has %v", name, fragment, target, anchors)
			}
		}
		for _, m := range include.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(docs + m[1]); err != nil {
				t.Errorf("%s includes %s: %v", name, m[1], err)
			}
		}
	}
}

func TestEveryChapterIsInTheSummary(t *testing.T) {
	all := chapters(t)
	for name := range all {
		included := slices.Contains([]string{"SUMMARY.md", "hypervisor-table.md"}, name)
		if !included && !strings.Contains(all["SUMMARY.md"], "(./"+name+")") {
			t.Errorf("%s is not in SUMMARY.md", name)
		}
	}
}

// TestSpecsOfTheHandbookAreValid parses the specs that readers copy.
func TestSpecsOfTheHandbookAreValid(t *testing.T) {
	n := 0
	for name, text := range chapters(t) {
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			n++
			if _, err := spec.Parse([]byte(m[1])); err != nil {
				t.Errorf("%s: %v\n%s", name, err, m[1])
			}
		}
	}
	if n < 2 {
		t.Errorf("found %d specs", n)
	}
}
