//go:build torture

package powercut

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// saver keeps failing states in a folder, the first few of each kind.
type saver struct {
	dir   string
	t     *testing.T
	mu    sync.Mutex
	count int
	kinds map[string]int
}

const savedEach = 3

// saved is what a state needs to be judged again; the disk lies beside it.
type saved struct {
	Scenario string `json:"scenario"`
	Base     int64  `json:"base"`
	Seed     uint64 `json:"seed"`
	Model    string `json:"model"`
	Early    bool   `json:"early"`
	Fault    inject `json:"fault,omitempty"` // the call that was made to fail
	Failure  string `json:"failure"`
	Cut      string `json:"cut"`
	Answer   answer `json:"answer"`
	Marks    []mark `json:"marks"`
}

const savedName = "failure.json"

func (s *saver) save(e *exploration, t trial, a answer, failure string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := kindOf(failure)
	if s.kinds[kind]++; s.kinds[kind] > savedEach {
		return nil
	}
	s.count++
	dir := filepath.Join(s.dir, fmt.Sprintf("%s-%d", e.rec.scenario.name, s.count))
	s.t.Logf("FAILED: %s\n  fault %q, model %+v, at %s  saved in %q; judge it again with %s=DIR", failure, e.rec.fault, e.model, t.label, dir, envReplay)
	js, err := json.MarshalIndent(saved{Scenario: e.rec.scenario.name, Base: e.rec.base.Unix(), Seed: e.seed, Model: fmt.Sprintf("%+v", e.model),
		Early: e.model.earlyAcks, Fault: e.rec.fault, Failure: failure, Cut: t.label, Answer: a, Marks: t.marks}, "", " ")
	if err != nil {
		return err
	}
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err = os.WriteFile(filepath.Join(dir, savedName), js, 0o600); err != nil {
		return err
	}
	return t.image.copyTo(filepath.Join(dir, "disk"))
}

// copyTo writes the image without sharing anything.
func (m image) copyTo(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range m.files {
		path := filepath.Join(dir, f.path)
		var err error
		if f.dir {
			err = os.MkdirAll(path, 0o700)
		} else {
			err = os.WriteFile(path, f.data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replay judges a saved state again, and tells what is found now; sound says that
// nothing is wrong any more.
func replay(dir, scratch string) (said string, sound bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, savedName))
	if err != nil {
		return "", false, err
	}
	var s saved
	if err = json.Unmarshal(b, &s); err != nil {
		return "", false, err
	}
	sc, err := scenarioNamed(s.Scenario)
	if err != nil {
		return "", false, err
	}
	disk := filepath.Join(scratch, "disk")
	if err = os.CopyFS(disk, os.DirFS(filepath.Join(dir, "disk"))); err != nil {
		return "", false, err
	}
	p := newPool(1)
	got := make(chan answer, 1)
	p.submit(task{Dir: disk, Scenario: s.Scenario, Base: s.Base}, func(a answer) { got <- a })
	a := <-got
	now := judge(sc, s.Marks, a, s.Early)
	return fmt.Sprintf("then: %s\nnow: %s\n%s", s.Failure, now, s.Cut), now == "", p.close()
}
