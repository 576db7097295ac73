package release

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// licenceFile matches the names under which Go modules keep licence texts and
// the notices that must be passed on with them. edl and epl are Eclipse's.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents|unlicense|edl-v|epl-v)[^/]*$`)

// sourceFile is what matches licenceFile by chance.
var sourceFile = regexp.MustCompile(`(?i)\.(go|s|sh|py|tmpl)$`)

// Notices prints the licence texts and notices of every module in the binaries
// of arches, and of Go's standard library. A module without one is an error:
// nobody may pass that on.
func Notices(w io.Writer, dist string, arches []string) error {
	binaries, err := readBinaries(dist, arches)
	if err != nil {
		return err
	}
	cache, root, err := goFolders()
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "Sluice is licensed under the Apache License 2.0. It contains the parts below, each under its own licence.")
	own, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		return err
	}
	printText(w, "Go standard library and runtime, "+binaries[0].Go+": LICENSE", own)
	for _, m := range modulesOf(binaries) {
		if err := printNotices(w, m, m.folder(cache)); err != nil {
			return err
		}
	}
	return nil
}

func printNotices(w io.Writer, m Module, folder string) error {
	seen := map[string]bool{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "LICENSES"):
			return fs.SkipDir
		case !d.Type().IsRegular() || !licenceFile.MatchString(d.Name()) || sourceFile.MatchString(d.Name()):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil || seen[digest(text)] {
			return err
		}
		seen[digest(text)] = true
		rel, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		printText(w, m.Path+" "+m.Version+": "+filepath.ToSlash(rel), text)
		return nil
	})
	if err != nil {
		return fmt.Errorf("licences of %s: %w", m.Path, err)
	}
	if len(seen) == 0 {
		return fmt.Errorf("%s@%s has no licence file in %s", m.Path, m.Version, folder)
	}
	return nil
}

func printText(w io.Writer, title string, text []byte) {
	text = bytes.TrimSpace(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	fmt.Fprintf(w, "\n%s\n%s\n\n%s\n", title, bytes.Repeat([]byte("-"), len(title)), text)
}
