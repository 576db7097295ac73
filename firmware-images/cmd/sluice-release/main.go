// Command sluice-release makes what goes beside and around the binaries of a
// release. See package release.
package main

import (
	"os"

	"sluice/firmware-images/release"
)

func main() {
	os.Exit(release.Main(os.Args[1:], os.Stdout, os.Stderr))
}
