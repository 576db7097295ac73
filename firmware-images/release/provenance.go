package release

import (
	"fmt"
	"strings"
)

// statement is an in-toto Statement v1 with SLSA Provenance v1 as predicate
// (SLSA specification 1.0, "Provenance").
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     provenance `json:"predicate"`
}

type resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

type provenance struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		InternalParameters   map[string]any `json:"internalParameters"`
		ResolvedDependencies []resource     `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID                  string     `json:"id"`
			BuilderDependencies []resource `json:"builderDependencies,omitempty"`
		} `json:"builder"`
	} `json:"runDetails"`
}

// buildType names how the release is built: "make packages" of this repository.
const buildType = "urn:sluice:build:make-packages:v1"

// provenanceOf says by whom and from what the artefact was built. It holds no
// time of the build: the same source gives the same statement.
func provenanceOf(info Info, a artefact) (statement, error) {
	s := statement{
		Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1",
		Subject: []resource{{Name: a.path, Digest: map[string]string{"sha256": a.sha256}}},
	}
	def := &s.Predicate.BuildDefinition
	def.BuildType = buildType
	def.ExternalParameters = map[string]any{"target": "packages", "version": info.Version, "sourceDateEpoch": info.Time.Unix()}
	settings := map[string]any{}
	for _, b := range a.binaries {
		settings["sluice-linux-"+b.Arch] = b.Settings
		def.ResolvedDependencies = append(def.ResolvedDependencies,
			resource{Name: "sluice-linux-" + b.Arch, Digest: map[string]string{"sha256": b.SHA256}})
	}
	def.InternalParameters = map[string]any{"go": a.binaries[0].Go, "settings": settings}
	def.ResolvedDependencies = append(def.ResolvedDependencies, source(info), resource{Name: "go", URI: "pkg:generic/go@" + a.binaries[0].Go[2:]})
	for _, m := range modulesOf(a.binaries) {
		sum, err := m.dirHash()
		if err != nil {
			return statement{}, err
		}
		def.ResolvedDependencies = append(def.ResolvedDependencies,
			resource{URI: "pkg:golang/" + m.Path + "@" + m.Version, Digest: map[string]string{"dirHash": sum}})
	}
	if a.path == imageName && info.Roots != "" {
		def.ResolvedDependencies = append(def.ResolvedDependencies, resource{Name: "CA certificates", URI: "pkg:golang/" + info.Roots})
	}
	for _, d := range debsOf(info, a) {
		def.ResolvedDependencies = append(def.ResolvedDependencies, resource{URI: d.purl(), Digest: map[string]string{"sha256": d.SHA256}})
	}
	s.Predicate.RunDetails.Builder.ID = info.Builder
	for _, t := range info.Tools {
		if !strings.Contains(t, "@") {
			return statement{}, fmt.Errorf("tool %q is not module@version", t)
		}
		s.Predicate.RunDetails.Builder.BuilderDependencies = append(s.Predicate.RunDetails.Builder.BuilderDependencies, resource{URI: "pkg:golang/" + t})
	}
	return s, nil
}

// source is the commit that was built. Without git it has no digest, and says so.
func source(info Info) resource {
	r := resource{Name: "source", URI: "pkg:golang/sluice@" + info.Version}
	if info.Commit == "" {
		r.Annotations = map[string]any{"commit": "unknown"}
		return r
	}
	r.Digest = map[string]string{"gitCommit": info.Commit}
	if info.Modified {
		r.Annotations = map[string]any{"modified": true}
	}
	return r
}
