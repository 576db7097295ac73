package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rootsFile writes a file of two certificates, DER.
func rootsFile(t *testing.T) string {
	t.Helper()
	var der []byte
	for i := range 2 {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i)}, ed25519.SeedSize))
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: "root"}, IsCA: true}
		raw, err := x509.CreateCertificate(nil, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		der = append(der, raw...)
	}
	path := filepath.Join(t.TempDir(), "roots.der")
	if err := os.WriteFile(path, der, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// image makes a layout of four binaries that hold the names of their
// architectures, and returns its files.
func image(t *testing.T, roots string) map[string][]byte {
	t.Helper()
	dist := t.TempDir()
	for _, p := range platforms {
		if err := os.WriteFile(filepath.Join(dist, "sluice-linux-"+p.arch), []byte(p.arch), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteImage(Info{Version: "1.2.3", Commit: "abc", Time: time.Unix(1e9, 0).UTC(), Dist: dist}, roots); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(filepath.Join(dist, "oci")), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[path], err = os.ReadFile(filepath.Join(dist, "oci", path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// get reads the blob of d into v, after having checked size and digest.
func get(t *testing.T, files map[string][]byte, d descriptor, v any) []byte {
	t.Helper()
	data := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if len(data) != d.Size || "sha256:"+digest(data) != d.Digest {
		t.Fatalf("blob %s has %d bytes, the descriptor says %d", d.Digest, len(data), d.Size)
	}
	if v != nil {
		if err := json.Unmarshal(data, v); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

type imageConfig struct {
	Architecture, OS, Variant, Created string
	Config                             struct {
		User       string
		Entrypoint []string
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	}
}

func TestImageHoldsEachBinaryForItsPlatform(t *testing.T) {
	files := image(t, rootsFile(t))
	var top, index imageIndex
	if err := json.Unmarshal(files["index.json"], &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.2.3" {
		t.Fatalf("the layout has %+v, not one image with the version as its name", top.Manifests)
	}
	get(t, files, top.Manifests[0], &index)
	if len(index.Manifests) != len(platforms) {
		t.Fatalf("%d platforms", len(index.Manifests))
	}
	for i, d := range index.Manifests {
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		var config imageConfig
		get(t, files, d, &manifest)
		get(t, files, manifest.Config, &config)
		want := platforms[i]
		if *d.Platform != want.platform || config.Architecture != want.Architecture || config.Variant != want.Variant || config.OS != "linux" {
			t.Errorf("platform %+v, config %+v; want %+v", *d.Platform, config, want)
		}
		if config.Config.User != "65532:65532" || config.Created != "2001-09-09T01:46:40Z" {
			t.Errorf("%s: user %q, created %q", want.arch, config.Config.User, config.Created)
		}
		tree := map[string]*tar.Header{}
		for n, l := range manifest.Layers {
			unpackLayer(t, get(t, files, l, nil), config.RootFS.DiffIDs[n], want.arch, tree)
		}
		if h := tree["var/lib/sluice/"]; h == nil || h.Uid != User || h.Mode != 0o700 {
			t.Errorf("%s: var/lib/sluice is %+v", want.arch, h)
		}
		if h := tree["usr/bin/sluice"]; h == nil || h.Uid != 0 || h.Mode != 0o755 {
			t.Errorf("%s: usr/bin/sluice is %+v", want.arch, h)
		}
	}
}

// unpackLayer adds the layer's entries to tree; the binary must hold arch.
func unpackLayer(t *testing.T, packed []byte, diffID, arch string, tree map[string]*tar.Header) {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	if "sha256:"+digest(raw) != diffID {
		t.Errorf("diff id %s is not of the layer", diffID)
	}
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "usr/bin/sluice" && string(data) != arch {
			t.Errorf("the image for %s holds the binary of %s", arch, data)
		}
		if n := bytes.Count(data, []byte("BEGIN CERTIFICATE")); h.Name == "etc/ssl/certs/ca-certificates.crt" && n != 2 {
			t.Errorf("%d certificates", n)
		}
		if h.ModTime.Unix() != 1e9 {
			t.Errorf("%s is of %v, not of the time given", h.Name, h.ModTime)
		}
		tree[h.Name] = h
	}
}

func TestImageIsTheSameEachTime(t *testing.T) {
	roots := rootsFile(t)
	a, b := image(t, roots), image(t, roots)
	if len(a) != len(b) || len(a) != 2+1+len(platforms)*3+1 { // layout and index; index, 4 times config, manifest, layer; base
		t.Fatalf("%d and %d files", len(a), len(b))
	}
	for name, data := range a {
		if !bytes.Equal(data, b[name]) {
			t.Errorf("%s differs", name)
		}
	}
}

func TestImageRefusesRubbishAsCertificates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rubbish")
	for _, rubbish := range []string{"", "not a certificate"} {
		if err := os.WriteFile(path, []byte(rubbish), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pemOf(path); err == nil {
			t.Errorf("%q passes for certificates", rubbish)
		}
	}
}
