package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// scripts runs the image's shell scripts on folders of the test in place of the
// EFI partition and the data partition.
type scripts struct {
	t                 *testing.T
	efi, kept, bundle string
	running           string // slot
	version           string // of the running slot
}

const scriptFolder = "../root/usr/lib/sluice"

func newScripts(t *testing.T) *scripts {
	t.Helper()
	s := &scripts{t: t, efi: t.TempDir(), kept: t.TempDir(), bundle: t.TempDir(), running: "A", version: "1.0.0"}
	for _, name := range []string{"boot1.env", "boot2.env"} {
		s.block(name, "begin=1\ngood=A\ntrial=none\nid=0\nbad=none\nfloor=1.0.0\nend=1\n")
	}
	s.block("tries.env", "of=0\ntries=0\n")
	return s
}

func (s *scripts) block(name, variables string) {
	s.t.Helper()
	text := "# GRUB Environment Block\n" + variables
	s.write(name, text+strings.Repeat("#", 1024-len(text)))
}

func (s *scripts) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.efi, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scripts) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.efi, name))
	if err != nil {
		s.t.Fatal(err)
	}
	if len(text) != 1024 {
		s.t.Fatalf("%s has %d bytes", name, len(text))
	}
	return strings.TrimRight(string(text), "#")
}

// sh runs a script and returns what it says, and whether it ended well.
func (s *scripts) sh(script string, args ...string) (string, bool) {
	s.t.Helper()
	dir := s.t.TempDir()
	cmdline, version := filepath.Join(dir, "cmdline"), filepath.Join(dir, "version")
	for path, text := range map[string]string{cmdline: "ro rauc.slot=" + s.running + " sluice.state=1 quiet\n", version: s.version + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", append([]string{filepath.Join(scriptFolder, script)}, args...)...)
	cmd.Env = append(os.Environ(), "SLUICE_EFI="+s.efi, "SLUICE_KEPT="+s.kept, "SLUICE_CMDLINE="+cmdline, "SLUICE_VERSION_FILE="+version,
		"SLUICE_RUN="+dir, "RAUC_BUNDLE_MOUNT_POINT="+s.bundle)
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), err == nil
}

func (s *scripts) must(args ...string) string {
	s.t.Helper()
	said, ok := s.sh("bootstate", args...)
	if !ok {
		s.t.Fatalf("bootstate %v: %s", args, said)
	}
	return said
}

// shows wants the state to have these variables.
func (s *scripts) shows(want string) {
	s.t.Helper()
	said := s.must("show")
	for _, w := range strings.Fields(want) {
		if !strings.Contains("\n"+said+"\n", "\n"+w+"\n") {
			s.t.Errorf("the state is %s; want %s", strings.Join(strings.Fields(said), " "), w)
		}
	}
	if one, two := s.read("boot1.env"), s.read("boot2.env"); one != two {
		s.t.Errorf("the copies differ:\n%s\n%s", one, two)
	}
}

// What RAUC and the judge do, from an installation to a good slot.
func TestBootStateOfAnUpdateThatIsGood(t *testing.T) {
	s := newScripts(t)
	s.must("set-state", "B", "bad") // RAUC, before it writes
	s.shows("good=A trial=none bad=B")
	if got := s.must("get-state", "B"); got != "bad" {
		t.Errorf("B is %s", got)
	}
	s.must("set-primary", "B") // RAUC, at the end
	s.shows("good=A trial=B bad=none tries=0")
	if got := s.must("get-primary"); got != "B" {
		t.Errorf("%s starts next", got)
	}
	s.running, s.version = "B", "1.1.0"
	s.must("mend")
	s.shows("good=A trial=B")
	s.must("set-state", "B", "good")
	s.shows("good=B trial=none floor=1.1.0")
	if floor, err := os.ReadFile(filepath.Join(s.kept, "floor")); err != nil || string(floor) != "1.1.0\n" {
		t.Errorf("the data partition has floor %q, %v", floor, err)
	}
}

func TestBootStateOfATrialThatFailed(t *testing.T) {
	s := newScripts(t)
	s.must("set-primary", "B")
	id := strings.TrimPrefix(strings.Split(s.read("tries.env"), "\n")[1], "of=")
	if said := s.must("mend"); said != "" {
		t.Errorf("a trial that waits for its first start is ended: %s", said)
	}
	s.block("tries.env", "of="+id+"\ntries=3\n") // GRUB
	if said := s.must("mend"); !strings.Contains(said, "slot B failed its trial") {
		t.Errorf("mend says %q", said)
	}
	s.shows("good=A trial=none bad=B floor=1.0.0")
}

func TestOnlyTheRunningSlotBecomesGood(t *testing.T) {
	s := newScripts(t)
	if said, ok := s.sh("bootstate", "set-state", "B", "good"); ok {
		t.Errorf("B became good: %s", said)
	}
	if said, ok := s.sh("bootstate", "set-state", "A", "bad"); ok {
		t.Errorf("the good slot became bad: %s", said)
	}
	s.shows("good=A trial=none bad=none")
}

func TestTornCopiesAreMended(t *testing.T) {
	whole := "begin=7\ngood=B\ntrial=none\nid=3\nbad=none\nfloor=1.2.0\nend=7\n"
	garbage := strings.Repeat("\xff", 1024)
	for name, tear := range map[string]func(*scripts){
		"the first is empty":         func(s *scripts) { s.write("boot1.env", "") },
		"the first is zeros":         func(s *scripts) { s.write("boot1.env", strings.Repeat("\x00", 1024)) },
		"the first is garbage":       func(s *scripts) { s.write("boot1.env", garbage) },
		"the first is half new":      func(s *scripts) { s.block("boot1.env", strings.Replace(whole, "begin=7", "begin=8", 1)) },
		"the first has no slot":      func(s *scripts) { s.block("boot1.env", strings.Replace(whole, "good=B", "good=C", 1)) },
		"the first is gone":          func(s *scripts) { os.Remove(filepath.Join(s.efi, "boot1.env")) },
		"the second is garbage":      func(s *scripts) { s.write("boot2.env", garbage) },
		"the second is older":        func(s *scripts) { s.block("boot2.env", strings.ReplaceAll(whole, "=7", "=6")) },
		"both are lost, data has it": func(s *scripts) { s.write("boot1.env", garbage); s.write("boot2.env", "") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripts(t)
			s.running, s.version = "B", "1.2.0"
			s.block("boot1.env", whole)
			s.block("boot2.env", whole)
			s.must("mend") // the data partition learns it
			tear(s)
			s.must("mend")
			s.shows("good=B trial=none floor=1.2.0")
		})
	}
}

func TestFloorIsTheHigherOfBothPlaces(t *testing.T) {
	s := newScripts(t)
	if err := os.WriteFile(filepath.Join(s.kept, "floor"), []byte("1.5.0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("mend")
	s.shows("floor=1.5.0")
}

func TestPreInstall(t *testing.T) {
	for name, tc := range map[string]struct {
		bundle string // its version; empty: it says none
		change func(*scripts)
		want   string // of the refusal; empty: taken
	}{
		"newer":                           {"1.1.0", func(*scripts) {}, ""},
		"the same again":                  {"1.0.0", func(*scripts) {}, ""},
		"older than the running one":      {"0.9.0", func(*scripts) {}, "older than 1.0.0"},
		"a prerelease of the running one": {"1.0.0-rc1", func(*scripts) {}, "older than 1.0.0"},
		"10 is more than 9":               {"1.10.0", func(s *scripts) { s.version = "1.9.0" }, ""},
		"older than what was good before": {"1.1.0", func(s *scripts) {
			for _, name := range []string{"boot1.env", "boot2.env"} {
				s.block(name, "begin=1\ngood=A\ntrial=none\nid=0\nbad=none\nfloor=1.2.0\nend=1\n")
			}
		}, "older than 1.2.0"},
		"while the slot is on trial": {"1.1.0", func(s *scripts) { s.running = "B" }, "on trial"},
		"without a version":          {"", func(*scripts) {}, "does not say its version"},
		"a version that is none":     {"latest", func(*scripts) {}, "cannot be compared"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripts(t)
			if tc.bundle != "" {
				if err := os.WriteFile(filepath.Join(s.bundle, "version"), []byte(tc.bundle+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			tc.change(s)
			said, ok := s.sh("pre-install")
			if ok != (tc.want == "") || !strings.Contains(said, tc.want) {
				t.Errorf("ended well %v, says %q; want %q", ok, said, tc.want)
			}
		})
	}
}
