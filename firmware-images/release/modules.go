package release

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// Module is a Go module that is linked into a binary.
type Module struct {
	Path, Version string
	Sum           string // "h1:" and the base64 of the hash of its files, as in go.sum
}

// dirHash is the hash in Sum in hex, the way in-toto writes it (digest set,
// "dirHash").
func (m Module) dirHash() (string, error) {
	raw, ok := strings.CutPrefix(m.Sum, "h1:")
	sum, err := base64.StdEncoding.DecodeString(raw)
	if !ok || err != nil || len(sum) != sha256.Size {
		return "", fmt.Errorf("module %s@%s: %q is no hash of the form h1:BASE64: build it without replace and vendor", m.Path, m.Version, m.Sum)
	}
	return hex.EncodeToString(sum), nil
}

// Binary is a built program and what its build information says.
type Binary struct {
	Arch     string // as in the file's name: armv6, armv7, arm64, riscv64, amd64
	Path     string
	SHA256   string
	Go       string // such as go1.26.8
	Modules  []Module
	Settings map[string]string // GOARCH, GOARM, -trimpath …
}

// readBinary reads dist/sluice-linux-<arch>.
func readBinary(dist, arch string) (Binary, error) {
	b := Binary{Arch: arch, Path: filepath.Join(dist, "sluice-linux-"+arch), Settings: map[string]string{}}
	bi, err := buildinfo.ReadFile(b.Path)
	if err != nil {
		return Binary{}, err
	}
	if b.SHA256, err = fileSHA256(b.Path); err != nil {
		return Binary{}, err
	}
	b.Go = bi.GoVersion
	for _, d := range bi.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		b.Modules = append(b.Modules, Module{d.Path, d.Version, d.Sum})
	}
	for _, s := range bi.Settings {
		b.Settings[s.Key] = s.Value
	}
	return b, nil
}

func readBinaries(dist string, arches []string) ([]Binary, error) {
	if len(arches) == 0 {
		return nil, errUsage
	}
	var all []Binary
	for _, arch := range arches {
		b, err := readBinary(dist, arch)
		if err != nil {
			return nil, fmt.Errorf("read binary of %s (make cross builds it): %w", arch, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// modulesOf lists the modules of all binaries, each once, by path.
func modulesOf(binaries []Binary) []Module {
	var all []Module
	for _, b := range binaries {
		all = append(all, b.Modules...)
	}
	slices.SortFunc(all, func(a, b Module) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Version, b.Version))
	})
	return slices.Compact(all)
}

// goFolders asks the go command where modules and its own sources lie.
func goFolders() (modules, root string, err error) {
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		return "", "", fmt.Errorf("go env: %w", err)
	}
	modules, root, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	return modules, root, nil
}

// folder is where the module's files lie in the module cache, in which an upper
// case letter is written as "!" and the lower case one (Go Modules Reference,
// "Module cache").
func (m Module) folder(cache string) string {
	var b strings.Builder
	for _, r := range m.Path + "@" + m.Version {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return filepath.Join(cache, filepath.FromSlash(b.String()))
}

func fileSHA256(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return digest(data), nil
}

// digest is the SHA-256 of data in hex.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
