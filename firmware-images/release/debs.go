package release

import (
	"bufio"
	"fmt"
	"net/url"
	"os"
	"strings"
)

// Deb is a Debian package that is in the bootable image.
type Deb struct{ Name, Version, Arch, SHA256 string }

// imageFolder is below Dist; what lies there holds the Debian packages, too.
const imageFolder = "image/"

// debSuite is the Debian that the image is made of.
const debSuite = "trixie"

// readDebs reads a list of name, version, architecture and SHA-256, a package a
// line.
func readDebs(path string) (all []Deb, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 4 || len(words[3]) != 64 {
			return nil, fmt.Errorf("%s: %q is not name, version, architecture, SHA-256", path, lines.Text())
		}
		all = append(all, Deb{words[0], words[1], words[2], words[3]})
	}
	return all, lines.Err()
}

// purl is the package's URL by the purl specification's type deb.
func (d Deb) purl() string {
	return "pkg:deb/debian/" + d.Name + "@" + url.QueryEscape(d.Version) + "?arch=" + d.Arch + "&distro=" + debSuite
}

// component is the package in a bill of materials. Its licences are those of its
// own copyright file, which is in the image.
func (d Deb) component() component {
	var l licence
	l.License.Name = "see /usr/share/doc/" + d.Name + "/copyright"
	return component{Ref: d.purl(), Type: "library", Name: d.Name, Version: d.Version, PURL: d.purl(), Licenses: []licence{l},
		Hashes: []hash{{"SHA-256", d.SHA256}}}
}

// debsOf are the packages in the artefact.
func debsOf(info Info, a artefact) []Deb {
	if !strings.HasPrefix(a.path, imageFolder) {
		return nil
	}
	return info.Debs
}
