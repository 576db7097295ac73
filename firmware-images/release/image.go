package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Media types of the OCI Image Format Specification 1.1, "OCI Image Media Types".
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// User is whom the image runs as, uid and gid: nobody's on common systems, and
// not root.
const User = 65532

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// platforms are those of the image, by the name of the binary.
var platforms = []struct {
	arch string
	platform
}{
	{"amd64", platform{"amd64", "linux", ""}},
	{"arm64", platform{"arm64", "linux", ""}},
	{"armv7", platform{"arm", "linux", "v7"}},
	{"armv6", platform{"arm", "linux", "v6"}},
	{"riscv64", platform{"riscv64", "linux", ""}},
}

// layout writes blobs into an OCI image layout (OCI Image Format Specification
// 1.1, "OCI Image Layout Specification").
type layout struct{ dir string }

func (l layout) blob(mediaType string, data []byte) (descriptor, error) {
	sum := digest(data)
	err := writeFile(filepath.Join(l.dir, "blobs", "sha256", sum), data)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(data)}, err
}

func (l layout) json(mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return l.blob(mediaType, data)
}

// layer is a compressed layer and the digest of what it holds.
type layer struct {
	descriptor
	diffID string
}

func (l layout) layer(files []file, when time.Time) (layer, error) {
	var raw, packed bytes.Buffer
	if err := writeTar(&raw, files, when); err != nil {
		return layer{}, err
	}
	zw, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return layer{}, err
	}
	if _, err = zw.Write(raw.Bytes()); err != nil {
		return layer{}, err
	}
	if err = zw.Close(); err != nil {
		return layer{}, err
	}
	d, err := l.blob(typeLayer, packed.Bytes())
	return layer{d, "sha256:" + digest(raw.Bytes())}, err
}

// file is an entry of a layer; a name that ends with a slash is a folder.
type file struct {
	name  string
	mode  int64
	owner int // uid and gid
	data  []byte
}

func writeTar(w *bytes.Buffer, files []file, when time.Time) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		kind := byte(tar.TypeReg)
		if f.name[len(f.name)-1] == '/' {
			kind = tar.TypeDir
		}
		h := &tar.Header{Typeflag: kind, Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.data)),
			ModTime: when, Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if _, err := tw.Write(f.data); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return tw.Close()
}

// base is the layer that all platforms share: CA certificates, the user's name,
// and the folders that the agent uses.
func base(roots []byte) []file {
	passwd := fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\nsluice:x:%d:%d:sluice:/var/lib/sluice:/sbin/nologin\n", User, User)
	group := fmt.Sprintf("root:x:0:\nsluice:x:%d:\n", User)
	return []file{
		{"etc/", 0o755, 0, nil},
		{"etc/group", 0o644, 0, []byte(group)},
		{"etc/passwd", 0o644, 0, []byte(passwd)},
		{"etc/sluice/", 0o755, 0, nil},
		{"etc/ssl/", 0o755, 0, nil},
		{"etc/ssl/certs/", 0o755, 0, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, 0, roots},
		{"tmp/", 0o1777, 0, nil},
		{"usr/", 0o755, 0, nil},
		{"usr/bin/", 0o755, 0, nil},
		{"var/", 0o755, 0, nil},
		{"var/lib/", 0o755, 0, nil},
		{"var/lib/sluice/", 0o700, User, nil},
	}
}

// WriteImage makes the OCI image layout Dist/oci anew: an index of one manifest
// for each platform, tagged with the version.
func WriteImage(info Info, rootsDER string) error {
	if rootsDER == "" || info.Version == "" {
		return errUsage
	}
	roots, err := pemOf(rootsDER)
	if err != nil {
		return err
	}
	l := layout{filepath.Join(info.Dist, "oci")}
	if err := os.RemoveAll(l.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	shared, err := l.layer(base(roots), info.Time)
	if err != nil {
		return err
	}
	var manifests []descriptor
	for _, p := range platforms {
		d, err := l.manifest(info, p.arch, p.platform, shared)
		if err != nil {
			return fmt.Errorf("image for %s: %w", p.arch, err)
		}
		manifests = append(manifests, d)
	}
	index, err := l.json(typeIndex, imageIndex{2, typeIndex, manifests, labels(info)})
	if err != nil {
		return err
	}
	index.Annotations = map[string]string{"org.opencontainers.image.ref.name": info.Version}
	top, err := json.Marshal(imageIndex{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{index}})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(l.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	return writeFile(filepath.Join(l.dir, "index.json"), top)
}

type imageIndex struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// manifest writes layer, config and manifest of one platform.
func (l layout) manifest(info Info, arch string, p platform, shared layer) (descriptor, error) {
	binary, err := os.ReadFile(filepath.Join(info.Dist, "sluice-linux-"+arch))
	if err != nil {
		return descriptor{}, err
	}
	own, err := l.layer([]file{{"usr/bin/sluice", 0o755, 0, binary}}, info.Time)
	if err != nil {
		return descriptor{}, err
	}
	user := fmt.Sprintf("%d:%d", User, User)
	about := map[string]any{
		"architecture": p.Architecture, "os": p.OS, "created": info.Time.Format(time.RFC3339),
		"config": map[string]any{
			"User": user, "Entrypoint": []string{"/usr/bin/sluice"}, "Cmd": []string{"run"}, "WorkingDir": "/",
			"Env":     []string{"PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"},
			"Volumes": map[string]any{"/var/lib/sluice": struct{}{}}, "StopSignal": "SIGTERM", "Labels": labels(info),
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{shared.diffID, own.diffID}},
		"history": []map[string]string{
			{"created": info.Time.Format(time.RFC3339), "created_by": "CA certificates and folders"},
			{"created": info.Time.Format(time.RFC3339), "created_by": "sluice"},
		},
	}
	if p.Variant != "" {
		about["variant"] = p.Variant
	}
	config, err := l.json(typeConfig, about)
	if err != nil {
		return descriptor{}, err
	}
	d, err := l.json(typeManifest, map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": config,
		"layers": []descriptor{shared.descriptor, own.descriptor}, "annotations": labels(info),
	})
	d.Platform = &p
	return d, err
}

// labels are the annotations of the OCI Image Format Specification 1.1,
// "Pre-Defined Annotation Keys".
func labels(info Info) map[string]string {
	m := map[string]string{
		"org.opencontainers.image.title":       "sluice",
		"org.opencontainers.image.description": "Edge streaming agent: MQTT and Modbus, buffered durably, to Kafka",
		"org.opencontainers.image.version":     info.Version,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.created":     info.Time.Format(time.RFC3339),
	}
	if info.Commit != "" {
		m["org.opencontainers.image.revision"] = info.Commit
	}
	return m
}

// pemOf makes a PEM bundle of a file of DER certificates, after having parsed
// each.
func pemOf(path string) ([]byte, error) {
	der, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := x509.ParseCertificates(der)
	if err != nil || len(certs) == 0 {
		return nil, fmt.Errorf("%s: no list of certificates: %w", path, err)
	}
	var b bytes.Buffer
	for _, c := range certs {
		fmt.Fprintf(&b, "# %s\n", c.Subject)
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
