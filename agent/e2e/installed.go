//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sluiceBinary returns the absolute path of the binary under test.
func sluiceBinary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("SLUICE_BIN")
	if path == "" {
		path = filepath.Join("..", "..", "bin", "sluice")
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("no agent to test: %v: run make build, or set SLUICE_BIN", err)
	}
	return path
}

// cacheDir is where install.sh puts the jars and the venv.
func cacheDir(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("SLUICE_E2E_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("find the cache of install.sh: %v", err)
	}
	return filepath.Join(dir, "sluice-e2e")
}

// installed returns the path of something that install.sh put into the cache.
func installed(t testing.TB, path string) string {
	t.Helper()
	full := filepath.Join(cacheDir(t), path)
	if _, err := os.Stat(full); err != nil {
		t.Fatalf("%v: run agent/e2e/install.sh first", err)
	}
	return full
}

// javaPath returns Debian's Java 17, also where another one comes first in PATH:
// Kafka 4 needs 17 or newer.
func javaPath(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/jvm/java-17-openjdk-*/bin/java")
	if err != nil || len(found) == 0 {
		t.Fatalf("Java 17 is not installed (%v): run agent/e2e/install.sh first", err)
	}
	return found[0]
}

// mosquittoPath finds the program also where /usr/sbin is not in a user's PATH.
func mosquittoPath(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("mosquitto is not installed: run agent/e2e/install.sh first")
	return ""
}
