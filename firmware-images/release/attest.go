package release

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// artefact is a file of the release and the binaries in it.
type artefact struct {
	path     string // below Dist, with slashes
	name     string // path, or the image's folder
	sha256   string
	binaries []Binary
}

// imageName is the path that stands for the OCI image: its index names every
// other file of the layout by digest.
const imageName = "oci/index.json"

// Attest writes a bill of materials and a provenance statement for each of the
// artefacts, given as ARCH[,ARCH…]=PATH. boms holds what cyclonedx-gomod made
// of each binary, <arch>.cdx.json.
func Attest(info Info, boms string, args []string) error {
	if len(args) == 0 || boms == "" || info.Version == "" {
		return errUsage
	}
	sources, err := readBOMs(boms)
	if err != nil {
		return err
	}
	for _, arg := range args {
		a, err := readArtefact(info.Dist, arg)
		if err != nil {
			return fmt.Errorf("artefact %q: %w", arg, err)
		}
		bill, err := billOf(info, a, sources)
		if err != nil {
			return fmt.Errorf("bill of materials of %s: %w", a.path, err)
		}
		if err := writeJSON(filepath.Join(info.Dist, "sbom", a.name+".cdx.json"), bill); err != nil {
			return err
		}
		statement, err := provenanceOf(info, a)
		if err != nil {
			return fmt.Errorf("provenance of %s: %w", a.path, err)
		}
		if err := writeJSON(filepath.Join(info.Dist, "provenance", a.name+".intoto.json"), statement); err != nil {
			return err
		}
	}
	return nil
}

func readArtefact(dist, arg string) (artefact, error) {
	arches, path, ok := strings.Cut(arg, "=")
	if !ok {
		return artefact{}, errUsage
	}
	sum, err := fileSHA256(filepath.Join(dist, filepath.FromSlash(path)))
	if err != nil {
		return artefact{}, err
	}
	binaries, err := readBinaries(dist, strings.Split(arches, ","))
	if err != nil {
		return artefact{}, err
	}
	name := path
	if path == imageName {
		name = "oci"
	}
	return artefact{path, name, sum, binaries}, nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeFile(path, append(data, '\n'))
}
