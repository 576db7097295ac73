package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestImagesListTheirDebianPackages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debs")
	sum := strings.Repeat("a", 64)
	if err := os.WriteFile(path, []byte("libssl3t64 3.5.9-1~deb13u1 arm64 "+sum+"\nbusybox-static 1:1.37.0-6+b9 arm64 "+sum+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	debs, err := readDebs(path)
	if err != nil || len(debs) != 2 {
		t.Fatalf("%v, %v", debs, err)
	}
	if got, want := debs[1].purl(), "pkg:deb/debian/busybox-static@1%3A1.37.0-6%2Bb9?arch=arm64&distro=trixie"; got != want {
		t.Errorf("purl %s, want %s", got, want)
	}
	info := Info{Version: "1.0.0", Debs: debs}
	for path, want := range map[string]int{"image/sluice.img.gz": 2, "packages/arm64/sluice.deb": 0} {
		a := anArtefact(path)
		b, err := billOf(info, a, known())
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, c := range b.Components {
			if strings.HasPrefix(c.PURL, "pkg:deb/") {
				found++
				if len(c.Licenses) == 0 || c.Hashes[0].Content != sum {
					t.Errorf("component %+v", c)
				}
			}
		}
		if found != want {
			t.Errorf("%s lists %d Debian packages, want %d", path, found, want)
		}
	}
}

func TestDebListThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debs")
	if err := os.WriteFile(path, []byte("libssl3t64 3.5.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readDebs(path); err == nil {
		t.Error("half a line passes")
	}
}
