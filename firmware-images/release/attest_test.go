package release

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// aSum is a hash of a module as in go.sum, and in hex.
const (
	aSum = "h1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	aHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

func anArtefact(path string) artefact {
	bin := func(arch string, modules ...Module) Binary {
		return Binary{Arch: arch, SHA256: "hash of " + arch, Go: "go1.26.8", Modules: modules, Settings: map[string]string{"GOARCH": arch}}
	}
	shared, own := Module{"example.org/shared", "v1.0.0", aSum}, Module{"example.org/own", "v2.0.0", aSum}
	return artefact{path, path, "hash", []Binary{bin("armv6", shared), bin("amd64", shared, own)}}
}

func known() map[string]component {
	all := map[string]component{}
	for _, id := range []string{"example.org/shared@v1.0.0", "example.org/own@v2.0.0", "std@go1.26.8"} {
		name, version, _ := strings.Cut(id, "@")
		all[id] = component{Ref: "ref:" + id, Type: "library", Name: name, Version: version, Licenses: spdx("MIT")}
	}
	return all
}

var anInfo = Info{Version: "1.2.3", Commit: "0123", Time: time.Unix(1e9, 0).UTC(), Builder: "urn:b", Roots: "example.org/roots@v1", Tools: []string{"example.org/tool@v3"}}

func TestBillListsBinariesAndEachModuleOnce(t *testing.T) {
	b, err := billOf(anInfo, anArtefact(imageName), known())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range b.Components {
		names = append(names, c.Name)
	}
	want := []string{"sluice", "sluice", "example.org/own", "example.org/shared", "std", "example.org/roots"}
	if !slices.Equal(names, want) {
		t.Errorf("components %v, want %v", names, want)
	}
	wants := []dependency{
		{"artefact", []string{"sluice-linux-armv6", "sluice-linux-amd64", "pkg:golang/example.org/roots@v1"}},
		{"sluice-linux-armv6", []string{"ref:example.org/shared@v1.0.0", "ref:std@go1.26.8"}},
		{"sluice-linux-amd64", []string{"ref:example.org/shared@v1.0.0", "ref:example.org/own@v2.0.0", "ref:std@go1.26.8"}},
	}
	for i, d := range b.Dependencies {
		if d.Ref != wants[i].Ref || !slices.Equal(d.DependsOn, wants[i].DependsOn) {
			t.Errorf("dependency %+v, want %+v", d, wants[i])
		}
	}
	if b.Metadata.Component.Type != "container" || b.Metadata.Timestamp != "2001-09-09T01:46:40Z" {
		t.Errorf("metadata %+v", b.Metadata)
	}
	other, err := billOf(anInfo, anArtefact("packages/amd64/x.deb"), known())
	if err != nil || other.Serial == b.Serial || other.Metadata.Component.Type != "file" {
		t.Errorf("bill of another artefact: %v, serial %s and %s", err, other.Serial, b.Serial)
	}
}

func TestBillRefusesAModuleThatNobodyLooksAt(t *testing.T) {
	sources := known()
	delete(sources, "example.org/own@v2.0.0")
	if _, err := billOf(anInfo, anArtefact("x"), sources); err == nil || !strings.Contains(err.Error(), "example.org/own") {
		t.Errorf("a module without a bill: %v", err)
	}
}

func TestProvenanceNamesSubjectSourceAndModules(t *testing.T) {
	s, err := provenanceOf(anInfo, anArtefact("packages/amd64/x.deb"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"subject":[{"name":"packages/amd64/x.deb","digest":{"sha256":"hash"}}]`, `"gitCommit":"0123"`,
		`{"uri":"pkg:golang/example.org/shared@v1.0.0","digest":{"dirHash":"` + aHex + `"}}`, `"id":"urn:b"`, `"uri":"pkg:golang/example.org/tool@v3"`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if n := bytes.Count(text, []byte("example.org/shared")); n != 1 {
		t.Errorf("a module that two binaries share stands %d times", n)
	}
	dirty := anInfo
	dirty.Modified = true
	if s, _ = provenanceOf(dirty, anArtefact("x")); !slices.ContainsFunc(s.Predicate.BuildDefinition.ResolvedDependencies, func(r resource) bool { return r.Annotations["modified"] == true }) {
		t.Error("a changed work tree is passed off as the commit")
	}
	bad := anArtefact("x")
	bad.binaries[0].Modules[0].Sum = ""
	if _, err = provenanceOf(anInfo, bad); err == nil {
		t.Error("a module without a hash has no complaint")
	}
}

func TestLicences(t *testing.T) {
	cache := t.TempDir()
	goText := []byte("the text of Go\n")
	put := func(m Module, text string) {
		t.Helper()
		if err := os.MkdirAll(m.folder(cache), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.folder(cache), "LICENSE"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(Module{Path: "golang.org/x/net", Version: "v1"}, "the text of Go")
	put(Module{Path: "example.org/Upper", Version: "v1"}, "something")
	detected := func(name, id string) component {
		c := component{Name: name, Version: "v1"}
		raw := `{"evidence":{"licenses":[{"license":{"id":"` + id + `"}}]}}`
		if err := json.Unmarshal([]byte(raw), &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, c := range []struct{ name, detected, want string }{
		{"example.org/Upper", "MIT", "MIT"},
		{"golang.org/x/net", "BSD-Source-Code", "BSD-3-Clause"},
		{"std", "", "BSD-3-Clause"},
		{"example.org/Upper", "GPL-3.0-only", ""},
		{"example.org/Upper", "", ""},
	} {
		got, err := licensed(detected(c.name, c.detected), cache, goText)
		if (err == nil) != (c.want != "") || err == nil && got.Licenses[0].License.ID != c.want {
			t.Errorf("%s, detected %q: %v, %v; want %q", c.name, c.detected, got.Licenses, err, c.want)
		}
	}
}

func TestNoticesOfAModule(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{"LICENSE": "first\r\n", "sub/NOTICE.md": "second", "sub/copying": "first\r\n", "license.go": "code", "testdata/LICENSE": "third"} {
		path := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	m := Module{Path: "example.org/m", Version: "v1"}
	if err := printNotices(&b, m, folder); err != nil {
		t.Fatal(err)
	}
	title := "\nexample.org/m v1: "
	want := title + "LICENSE\n-------------------------\n\nfirst\n" + title + "sub/NOTICE.md\n-------------------------------\n\nsecond\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	if err := printNotices(&b, m, t.TempDir()); err == nil {
		t.Error("a module without a licence has no complaint")
	}
}

func TestModuleFolderEscapesUpperCase(t *testing.T) {
	got := Module{Path: "github.com/VictoriaMetrics/metrics", Version: "v1.44.0"}.folder("/c")
	if got != filepath.FromSlash("/c/github.com/!victoria!metrics/metrics@v1.44.0") {
		t.Error(got)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, 2}, {[]string{"nonsense"}, 2}, {[]string{"oci"}, 2}, {[]string{"attest", "-x"}, 2}, {[]string{"notices"}, 2},
		{[]string{"notices", "-dist", t.TempDir(), "amd64"}, 1},
		{[]string{"attest", "-version", "1", "-boms", t.TempDir(), "amd64=x"}, 1},
	} {
		var out bytes.Buffer
		if got := Main(c.args, &out, &out); got != c.want {
			t.Errorf("%v: status %d, want %d; %s", c.args, got, c.want, out.String())
		}
	}
}
