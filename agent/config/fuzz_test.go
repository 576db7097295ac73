package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzParse: whatever the text, there is a config or there are problems with a
// place, and no secret of the machine in them; a config prints to a text that
// reads back to the same.
func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte(minimal))
	f.Add([]byte(resolveText))
	f.Add([]byte(ladderText))
	f.Add([]byte(withSecret("${file:/run/secrets/mqtt}")))
	archives, _ := filepath.Glob("testdata/problems/*.txtar")
	for _, file := range archives {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range archive.Files {
			if strings.HasSuffix(part.Name, ".yaml") {
				f.Add(part.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 16<<10 {
			return // time is for variety
		}
		// Everything that a later version builds is on, so that all rules run.
		c, problems := parseAll(string(text))
		if len(problems) > 0 {
			checkProblems(t, text, problems)
			return
		}
		printed := c.YAML()
		again, problems := parseAll(string(printed))
		if len(problems) > 0 || !bytes.Equal(again.YAML(), printed) {
			t.Errorf("printed as\n%s\nwhich reads back with\n%v\nas\n%s", printed, problems, again.YAML())
		}
	})
}

func checkProblems(t *testing.T, text []byte, problems Problems) {
	lineCount := 1 + bytes.Count(text, []byte("\n")) + bytes.Count(text, []byte("\r"))
	for _, p := range problems {
		if p.Line < 1 || p.Line > lineCount || p.Column < 1 || p.Wrong == "" || strings.ContainsAny(p.String(), "\n\r\x00") {
			t.Errorf("not a good problem: %+v", p)
		}
		if strings.Contains(p.String(), "hunter2") && !bytes.Contains(text, []byte("hunter2")) {
			t.Errorf("a problem shows a secret: %v", p)
		}
	}
}
