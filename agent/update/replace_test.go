package update

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"sluice/agent/remote/tree"
)

func TestAnotherUpdateTakesThePlaceOfOneThatIsFetched(t *testing.T) {
	t.Parallel()
	old, bundle := aBundle(5000), aBundle(6000)
	broken := httptest.NewServer(http.NotFoundHandler())
	defer broken.Close()
	server := newFlaky(t, bundle, 0, 0)
	r := newRig(t, nil)
	r.accepted(argsOf("1.1.0", broken.URL, old))
	r.until(Waiting)
	r.accepted(argsOf("1.2.0", server.URL, bundle))
	r.ends("1.2.0", bundle)
}

// What was fetched of the one before does not become part of the next.
func TestAnotherUpdateBeginsAtItsFirstByte(t *testing.T) {
	t.Parallel()
	old, bundle := aBundle(5000), aBundle(6000)
	slices.Reverse(bundle)
	broken, server := newFlaky(t, old, 1000, 2000), newFlaky(t, bundle, 0, 0)
	r := newRig(t, nil)
	r.accepted(argsOf("1.1.0", broken.URL, old))
	if p := r.until(Waiting); p.Bytes != 2000 {
		t.Fatalf("%+v", p)
	}
	r.accepted(argsOf("1.2.0", server.URL, bundle))
	r.ends("1.2.0", bundle)
}

// One that is fetched already, and not yet handed to the installer, fails nothing
// and takes nothing of the next with it.
func TestAnotherUpdateTakesThePlaceOfOneThatIsChecked(t *testing.T) {
	t.Parallel()
	old, bundle := aBundle(5000), aBundle(6000)
	first, never := newFlaky(t, old, 0, 0), httptest.NewServer(http.NotFoundHandler())
	defer never.Close()
	r, checked, replaced := heldAtCheck(t)
	r.accepted(argsOf("1.1.0", first.URL, old))
	<-checked
	r.accepted(argsOf("1.2.0", never.URL, bundle))
	close(replaced)
	if p := r.until(Waiting, Installing, Failed); p.Phase != Waiting || p.Version != "1.2.0" {
		t.Fatalf("%+v", p)
	}
	r.end() // the job is durable
	r.start()
	if p := r.until(Waiting, Failed); p.Phase != Waiting || p.Version != "1.2.0" {
		t.Fatalf("after a restart: %+v", p)
	}
}

// One that waits for a server's answer is left at once, and told of no more.
func TestAnotherUpdateDoesNotWaitForASilentServer(t *testing.T) {
	t.Parallel()
	bundle := aBundle(6000)
	asked, end := make(chan struct{}), make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(asked); <-end }))
	defer silent.Close()
	defer close(end)
	server := newFlaky(t, bundle, 0, 0)
	r := newRig(t, nil)
	r.accepted(argsOf("1.1.0", silent.URL, aBundle(5000)))
	<-asked
	r.accepted(argsOf("1.2.0", server.URL, bundle))
	if p := r.until(Waiting, Installed, Failed); p.Phase != Installed || p.Version != "1.2.0" {
		t.Fatalf("%+v", p)
	}
	r.holds(bundle)
}

// One that writes until the next has taken its place leaves nothing to the next either.
func TestAnotherUpdateHeedsNothingThatWasWrittenLate(t *testing.T) {
	t.Parallel()
	old, bundle := aBundle(5000), aBundle(6000)
	slices.Reverse(bundle)
	first, server := newFlaky(t, old, 0, 0), newFlaky(t, bundle, 0, 0)
	r, checked, replaced := heldAtCheck(t)
	r.accepted(argsOf("1.1.0", first.URL, old))
	<-checked
	r.accepted(argsOf("1.2.0", server.URL, bundle))
	if err := os.WriteFile(filepath.Join(r.dir, bundleFile), old[:2000], 0o600); err != nil {
		t.Fatal(err)
	}
	close(replaced)
	r.ends("1.2.0", bundle)
}

// One that cannot be stored takes nobody's place.
func TestAnUpdateThatCannotBeStoredLeavesTheOneBefore(t *testing.T) {
	t.Parallel()
	old := aBundle(5000)
	first := newFlaky(t, old, 0, 0)
	r, checked, held := heldAtCheck(t)
	r.accepted(argsOf("1.1.0", first.URL, old))
	<-checked
	path := filepath.Join(r.dir, jobFile)
	job, err := os.ReadFile(path)
	if err = errors.Join(err, os.Remove(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.update(argsOf("1.2.0", first.URL, aBundle(6000))); err == nil {
		t.Error("it was accepted")
	}
	if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, job, 0o600)); err != nil {
		t.Fatal(err)
	}
	close(held)
	r.ends("1.1.0", old)
}

// A restart before anything was fetched of it does not take what is there for its own.
func TestAnUpdateThatWasStoredAndNotBegun(t *testing.T) {
	t.Parallel()
	bundle := aBundle(6000)
	server := newFlaky(t, bundle, 0, 0)
	r := newRig(t, nil)
	r.end()
	args, err := tree.Parse([]byte(argsOf("1.2.0", server.URL, bundle)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseArgs(args)
	if err != nil {
		t.Fatal(err)
	}
	j := &job{Bundle: b, Began: time.Now(), Fresh: true}
	late := slices.Clone(bundle[:2000])
	slices.Reverse(late)
	if err := errors.Join(folder(r.dir).store(j), os.WriteFile(filepath.Join(r.dir, bundleFile), late, 0o600)); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.ends("1.2.0", bundle)
}

// heldAtCheck is a rig whose first update waits, when it is to be checked, for replaced.
func heldAtCheck(t *testing.T) (r *rig, checked, replaced chan struct{}) {
	t.Helper()
	checked, replaced = make(chan struct{}), make(chan struct{})
	var once sync.Once
	r = newRig(t, func(c *Config) {
		report := c.Report
		c.Report = func(p Phase) {
			report(p)
			if p.Phase == Checking {
				once.Do(func() { close(checked); <-replaced })
			}
		}
	})
	return r, checked, replaced
}

// ends waits until an update is installed, which must be this one.
func (r *rig) ends(version string, bundle []byte) {
	r.t.Helper()
	if p := r.until(Installed, Failed); p.Phase != Installed || p.Version != version {
		r.t.Fatalf("%+v", p)
	}
	r.holds(bundle)
}
