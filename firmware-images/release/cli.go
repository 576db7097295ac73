package release

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

// Info is what the build script knows about the release.
type Info struct {
	Version  string    // without a leading v, such as 0.1.0
	Commit   string    // the commit in hex, 40 digits where git is there; empty: unknown
	Modified bool      // the work tree had changes that are not in Commit
	Time     time.Time // of the commit; every date in an artefact is this one
	Dist     string    // the folder of all artefacts; binaries are Dist/sluice-linux-<arch>
	Builder  string    // URI of who built it
	Roots    string    // module and version that the image's CA certificates come from, as module@version
	Debs     []Deb     // in the bootable image
	Tools    []string  // tools of the build as module@version
}

const usage = `usage: sluice-release COMMAND [flags]

  notices [flags] ARCH…        print the licence texts of all modules in the binaries
  oci [flags] -roots-der FILE  write the OCI image layout Dist/oci from the binaries
  attest [flags] ARCH=PATH…    write Dist/sbom/PATH.cdx.json and Dist/provenance/PATH.intoto.json for artefacts;
                               PATH is below Dist, ARCH names the binary in it, or several with commas
`

// Main runs the command in args and returns the exit status: 0 done, 1 failed,
// 2 wrong usage.
func Main(args []string, out, errOut io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(errOut, usage)
		return 2
	}
	var info Info
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.StringVar(&info.Version, "version", "", "version of the release")
	flags.StringVar(&info.Commit, "commit", "", "commit, in full")
	flags.BoolVar(&info.Modified, "modified", false, "the work tree differs from the commit")
	flags.StringVar(&info.Dist, "dist", "dist", "folder of the artefacts")
	flags.StringVar(&info.Builder, "builder", "urn:sluice:builder:local", "URI of the builder")
	flags.StringVar(&info.Roots, "roots", "", "module@version of the CA certificates")
	flags.Func("tool", "module@version of a tool of the build; may be given again", func(s string) error {
		info.Tools = append(info.Tools, s)
		return nil
	})
	epoch := flags.Int64("epoch", 0, "SOURCE_DATE_EPOCH in seconds")
	rootsDER := flags.String("roots-der", "", "file of CA certificates, DER, one after the other")
	debs := flags.String("debs", "", "list of the Debian packages in what is below Dist/image: name, version, architecture, SHA-256")
	boms := flags.String("boms", "", "folder with <arch>.cdx.json of each binary")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	info.Time = time.Unix(*epoch, 0).UTC()
	if *debs != "" {
		var err error
		if info.Debs, err = readDebs(*debs); err != nil {
			fmt.Fprintln(errOut, "sluice-release:", err)
			return 1
		}
	}
	err := errUsage
	switch args[0] {
	case "notices":
		err = Notices(out, info.Dist, flags.Args())
	case "oci":
		err = WriteImage(info, *rootsDER)
	case "attest":
		err = Attest(info, *boms, flags.Args())
	}
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(errOut, usage)
		return 2
	case err != nil:
		fmt.Fprintln(errOut, "sluice-release "+args[0]+":", err)
		return 1
	}
	return 0
}

// errUsage says that the command line is wrong.
var errUsage = errors.New("wrong usage")

// writeFile writes a file of an artefact, with a mode that does not depend on
// the umask.
func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}
