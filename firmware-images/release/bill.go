package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bill is a CycloneDX 1.6 bill of materials, as far as it is used here.
type bill struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string `json:"timestamp"`
	Tools     struct {
		Components []component `json:"components"`
	} `json:"tools"`
	Component component `json:"component"`
}

type component struct {
	Ref        string           `json:"bom-ref,omitempty"`
	Type       string           `json:"type"`
	Name       string           `json:"name"`
	Version    string           `json:"version,omitempty"`
	Hashes     []hash           `json:"hashes,omitempty"`
	Licenses   []licence        `json:"licenses,omitempty"`
	PURL       string           `json:"purl,omitempty"`
	References []map[string]any `json:"externalReferences,omitempty"`
	Properties []property       `json:"properties,omitempty"`
	Evidence   *struct {
		Licenses []licence `json:"licenses,omitempty"`
	} `json:"evidence,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type licence struct {
	License struct {
		ID   string `json:"id,omitempty"`
		Name string `json:"name,omitempty"` // in place of the id
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

// permitted are the licences that a released binary may contain. One that is
// missing here has to be read by somebody before it is added.
var permitted = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "EPL-2.0", "ISC", "MIT", "MPL-2.0"}

// readBOMs reads what cyclonedx-gomod made of each binary, and returns the
// components of all of them by path@version, with one licence each.
func readBOMs(folder string) (map[string]component, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.cdx.json"))
	if err != nil || len(names) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no *.cdx.json in %s", folder))
	}
	cache, root, err := goFolders()
	if err != nil {
		return nil, err
	}
	goLicence, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		return nil, err
	}
	all := map[string]component{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var made struct {
			Components []component `json:"components"`
		}
		if err := json.Unmarshal(data, &made); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, c := range made.Components {
			if c, err = licensed(c, cache, goLicence); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all[c.Name+"@"+c.Version] = c
		}
	}
	return all, nil
}

// licensed moves the detected licence of c to where readers look for it. The
// detector takes Go's own licence text for BSD-Source-Code, so modules that
// carry the same text as Go itself are named by that.
func licensed(c component, cache string, goLicence []byte) (component, error) {
	id := ""
	if c.Evidence != nil && len(c.Evidence.Licenses) == 1 {
		id = c.Evidence.Licenses[0].License.ID
	}
	text, err := os.ReadFile(filepath.Join(Module{Path: c.Name, Version: c.Version}.folder(cache), "LICENSE"))
	if c.Name == "std" || err == nil && bytes.Equal(bytes.TrimSpace(text), bytes.TrimSpace(goLicence)) {
		id = "BSD-3-Clause"
	}
	if !slices.Contains(permitted, id) {
		return component{}, fmt.Errorf("%s@%s: its licence %q is not among those that a release may contain: read it and add it to the list of permitted ones",
			c.Name, c.Version, id)
	}
	c.Evidence, c.Licenses = nil, spdx(id)
	return c, nil
}

func spdx(ids ...string) (all []licence) {
	for _, id := range ids {
		var l licence
		l.License.ID = id
		all = append(all, l)
	}
	return all
}

// billOf lists what is in the artefact: its binaries, their modules, the CA
// certificates of the OCI image, and the Debian packages of the bootable one.
func billOf(info Info, a artefact, sources map[string]component) (bill, error) {
	kind := "file"
	if a.path == imageName {
		kind = "container"
	}
	b := bill{Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1,
		Serial: "urn:uuid:" + uuidOf(a.path+"\n"+a.sha256)}
	b.Metadata.Timestamp = info.Time.Format(time.RFC3339)
	for _, t := range info.Tools {
		name, version, _ := strings.Cut(t, "@")
		b.Metadata.Tools.Components = append(b.Metadata.Tools.Components, component{Type: "application", Name: name, Version: version})
	}
	b.Metadata.Component = component{Ref: "artefact", Type: kind, Name: a.name, Version: info.Version,
		Hashes: []hash{{"SHA-256", a.sha256}}, Licenses: spdx("Apache-2.0")}
	top := dependency{Ref: "artefact"}
	for _, bin := range a.binaries {
		app, uses, err := application(info, bin, sources)
		if err != nil {
			return bill{}, err
		}
		b.Components = append(b.Components, app)
		top.DependsOn = append(top.DependsOn, app.Ref)
		b.Dependencies = append(b.Dependencies, uses)
	}
	modules := modulesOf(a.binaries)
	for _, m := range append(modules, Module{Path: "std", Version: a.binaries[0].Go}) {
		b.Components = append(b.Components, sources[m.Path+"@"+m.Version])
	}
	if kind == "container" && info.Roots != "" {
		name, version, _ := strings.Cut(info.Roots, "@")
		b.Components = append(b.Components, component{Ref: "pkg:golang/" + info.Roots, Type: "data", Name: name, Version: version,
			PURL: "pkg:golang/" + info.Roots, Licenses: spdx("MPL-2.0")})
		top.DependsOn = append(top.DependsOn, "pkg:golang/"+info.Roots)
	}
	for _, d := range debsOf(info, a) {
		b.Components = append(b.Components, d.component())
		top.DependsOn = append(top.DependsOn, d.purl())
	}
	b.Dependencies = append([]dependency{top}, b.Dependencies...)
	return b, nil
}

// application is the binary as a component, and what it depends on.
func application(info Info, bin Binary, sources map[string]component) (component, dependency, error) {
	ref := "sluice-linux-" + bin.Arch
	c := component{Ref: ref, Type: "application", Name: "sluice", Version: info.Version, Hashes: []hash{{"SHA-256", bin.SHA256}},
		Licenses: spdx("Apache-2.0"), PURL: "pkg:generic/sluice@" + info.Version + "?arch=" + bin.Arch + "&os=linux",
		Properties: []property{{"sluice:commit", info.Commit}}}
	for _, key := range []string{"GOARCH", "GOARM", "GOARM64", "GOAMD64", "CGO_ENABLED"} {
		if v, ok := bin.Settings[key]; ok {
			c.Properties = append(c.Properties, property{"sluice:build:" + key, v})
		}
	}
	uses := dependency{Ref: ref}
	for _, m := range append(slices.Clone(bin.Modules), Module{Path: "std", Version: bin.Go}) {
		known, ok := sources[m.Path+"@"+m.Version]
		if !ok {
			return component{}, dependency{}, fmt.Errorf("%s@%s is in the binary of %s and not in its bill of materials", m.Path, m.Version, bin.Arch)
		}
		uses.DependsOn = append(uses.DependsOn, known.Ref)
	}
	return c, uses, nil
}

// uuidOf makes a UUID of version 8 (RFC 9562 §5.8) from the hash of text.
func uuidOf(text string) string {
	h := digest([]byte(text))
	return h[:8] + "-" + h[8:12] + "-8" + h[13:16] + "-a" + h[17:20] + "-" + h[20:32]
}
