package agent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport says which of our own packages a package may import, by its path;
// the longest prefix decides. What is not listed may import nothing of ours.
// Data flows driver → buffer → uplink, and only agent sees all.
var mayImport = map[string][]string{
	"agent":                     {"agent/config", "agent/control", "agent/remote", "agent/remote/document", "agent/remote/floor", "agent/remote/tree", "agent/remote/trust", "agent/update", "agent/web", "buffer", "drivers", "drivers/modbus", "drivers/mqtt", "uplink", "uplink/channel", "uplink/gate", "uplink/oauth"},
	"agent/cli":                 {"agent", "agent/config", "agent/control", "agent/remote", "agent/remote/document", "agent/remote/tree", "agent/remote/trust", "agent/update", "agent/web", "buffer", "drivers", "drivers/modbus", "drivers/modbus/profiles", "uplink/audit", "uplink/channel"},
	"agent/cmd/sluice":          {"agent/cli"},
	"agent/cmd/sluice-simulate": {"agent/simulate"},
	"agent/config":              {"agent/remote/tree", "agent/remote/trust", "drivers/modbus/profiles", "uplink/gate"},
	"agent/control":             {},
	"agent/remote":              {"agent/remote/document", "agent/remote/floor", "agent/remote/tree", "agent/remote/trust"},
	"agent/remote/document":     {"agent/remote/tree", "agent/remote/trust"},
	"agent/remote/floor":        {},
	"agent/remote/tree":         {},
	"agent/remote/trust":        {},
	"agent/update":              {"agent/remote/tree"},
	"agent/web":                 {"drivers"},
	"agent/simulate":            {},
	"agent/e2e":                 {"buffer", "drivers"},
	"buffer":                    {"drivers"},
	"buffer/powercut":           {"buffer", "drivers"},
	"buffer/torture":            {"buffer", "drivers"},
	"drivers":                   {},
	"drivers/loopback":          {},
	"drivers/mqtt":              {"drivers", "drivers/mqtt/sparkplug"},
	"drivers/mqtt/sparkplug":    {"drivers"},
	"drivers/modbus":            {"drivers"},
	"drivers/modbus/profiles":   {},
	"uplink":                    {"buffer", "drivers", "uplink/gate"},
	"uplink/audit":              {},
	"uplink/channel":            {"uplink"},
	"uplink/gate":               {},
	"uplink/oauth":              {},

	"firmware-images/release":            {},
	"firmware-images/image/test":         {},
	"firmware-images/cmd/sluice-release": {"firmware-images/release"},
}

// notInTheAgent are packages that only tests and the simulation may use.
var notInTheAgent = []string{"github.com/mochi-mqtt/", "github.com/simonvetter/", "github.com/twmb/franz-go/pkg/kfake", "github.com/rogpeppe/", "sluice/drivers/loopback"}

type goFile struct {
	path, pkg string // below the root
	tree      *ast.File
	set       *token.FileSet
}

func (f goFile) test() bool { return strings.HasSuffix(f.path, "_test.go") }

func goFiles(t *testing.T) (files []goFile) {
	t.Helper()
	root := ".."
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))
		files = append(files, goFile{path: rel, pkg: path.Dir(rel), tree: tree, set: set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d Go files found", len(files))
	}
	return files
}

func TestImportsPointOneWay(t *testing.T) {
	for _, f := range goFiles(t) {
		allowed, known := mayImport[f.pkg]
		if !known {
			t.Errorf("%s: package %s is not in the list of packages: say what it may import", f.path, f.pkg)
			continue
		}
		for _, imp := range f.tree.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			ours, isOurs := strings.CutPrefix(name, "sluice/")
			switch {
			case isOurs && !f.test() && !slices.Contains(allowed, ours):
				t.Errorf("%s imports %s; package %s may import %v", f.path, name, f.pkg, allowed)
			case !f.test() && !strings.HasPrefix(f.pkg, "agent/simulate") && !strings.HasPrefix(f.pkg, "agent/e2e") &&
				slices.ContainsFunc(notInTheAgent, func(p string) bool { return strings.HasPrefix(name, p) }):
				t.Errorf("%s imports %s, which only tests and the simulation may use", f.path, name)
			}
		}
	}
}

func TestFunctionsAndFilesStayShort(t *testing.T) {
	const longestFunction, longestFile = 60, 500
	for _, f := range goFiles(t) {
		if f.test() {
			continue
		}
		if n := f.set.Position(f.tree.End()).Line; n > longestFile {
			t.Errorf("%s has %d lines (%d at most)", f.path, n, longestFile)
		}
		for _, d := range f.tree.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1; n > longestFunction {
				t.Errorf("%s: %s has %d lines (%d at most)", f.path, fn.Name.Name, n, longestFunction)
			}
			if fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: an init function: wire it where it is used", f.path)
			}
		}
	}
}

func TestTopLevelFoldersAreTheAgreedOnes(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	agreed := []string{"agent", "buffer", "docs", "drivers", "firmware-images", "uplink", "bin", "dist"} // the last two are built
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(agreed, e.Name()) {
			t.Errorf("folder %s: the top-level folders are %v", e.Name(), agreed)
		}
	}
}
