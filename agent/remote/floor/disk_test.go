package floor

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// disk is a folder of which it is known what a power cut may leave. A file has
// the content that was synced last, and what was written since then; the folder
// has the names that were synced last, and what was renamed or created since,
// which reach the disk in their order or not at all.
type disk struct {
	nodes   []*node
	names   map[string]int // what a process sees
	durable map[string]int // what is certain
	pending []map[string]int
	calls   int
	failAt  int  // this call fails, half done; 0: none
	lies    lies // what the disk or the code under test leaves out
}

type lies struct{ fileSync, dirSync bool }

type node struct {
	data   []byte // as written
	synced []byte // what is certain
	clean  bool   // data is synced
}

var errInjected = errors.New("injected")

// call counts one; every call may fail.
func (d *disk) call() error {
	if d.calls++; d.calls == d.failAt {
		return errInjected
	}
	return nil
}

func (d *disk) changed() { d.pending = append(d.pending, maps.Clone(d.names)) }

func (d *disk) Create(name string) (File, error) {
	if err := d.call(); err != nil {
		return nil, err
	}
	d.nodes = append(d.nodes, &node{})
	d.names[name] = len(d.nodes) - 1
	d.changed()
	return &handle{d, d.nodes[len(d.nodes)-1]}, nil
}

func (d *disk) Rename(from, to string) error {
	if err := d.call(); err != nil {
		return err
	}
	i, ok := d.names[from]
	if !ok {
		return os.ErrNotExist
	}
	delete(d.names, from)
	d.names[to] = i
	d.changed()
	return nil
}

func (d *disk) Remove(name string) error {
	if err := d.call(); err != nil {
		return err
	}
	if _, ok := d.names[name]; !ok {
		return os.ErrNotExist
	}
	delete(d.names, name)
	d.changed()
	return nil
}

func (d *disk) Sync() error {
	if err := d.call(); err != nil || d.lies.dirSync {
		return err
	}
	d.durable, d.pending = maps.Clone(d.names), nil
	return nil
}

type handle struct {
	disk *disk
	node *node
}

func (h *handle) Write(b []byte) (int, error) {
	if err := h.disk.call(); err != nil {
		h.node.data = append(h.node.data, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	h.node.data = append(h.node.data, b...)
	h.node.clean = false
	return len(b), nil
}

func (h *handle) Sync() error {
	if err := h.disk.call(); err != nil || h.disk.lies.fileSync {
		return err
	}
	h.node.synced, h.node.clean = bytes.Clone(h.node.data), true
	return nil
}

func (h *handle) Close() error { return h.disk.call() }

// states are folders that a power cut at this instant may leave: each state of
// the names, with each file as it was synced or with more, less or other bytes of
// what was not.
func (d *disk) states(r *rand.Rand) (list []map[string][]byte) {
	for _, names := range append([]map[string]int{d.durable}, d.pending...) {
		for kind := range 5 {
			state := map[string][]byte{}
			for name, i := range names {
				state[name] = d.nodes[i].survived(kind, r)
			}
			list = append(list, state)
		}
	}
	return list
}

func (n *node) survived(kind int, r *rand.Rand) []byte {
	if n.clean {
		return n.data
	}
	switch kind {
	case 0:
		return n.synced
	case 1:
		return n.data
	case 2: // cut at one of eight places
		return n.data[:len(n.data)*r.IntN(8)/8]
	case 3:
		return make([]byte, len(n.data))
	}
	b := bytes.Clone(n.data) // a part of it is what the disk had there before
	for i := len(b) * r.IntN(4) / 4; i < len(b); i++ {
		b[i] ^= 0x55
	}
	return b
}

// put makes the state a real folder.
func put(t *testing.T, dir string, state map[string][]byte) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range state {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// history saves memories one after the other and looks at every power cut in
// between. It returns what is wrong with the states.
func history(t *testing.T, l lies, failAt int, r *rand.Rand, found findings) (states int, wrong []string) {
	d := &disk{names: map[string]int{}, durable: map[string]int{}, failAt: failAt, lies: l}
	watched := &watch{disk: d}
	s := &Store{folder: watched}
	dir := t.TempDir()
	// What may be read: the last that Save returned for, and what came after it.
	promised, allowed := -1, []int{-1}
	watched.cut = func() {
		for _, state := range d.states(r) {
			states++
			if got := found.open(t, filepath.Join(dir, fmt.Sprint(states)), state); !slices.Contains(allowed, got) {
				wrong = append(wrong, fmt.Sprintf("call %d: version %d is read back, want one of %v", d.calls, got, allowed))
			}
		}
	}
	for i := range 4 {
		m := s.Memory()
		m.Documents = map[string]Known{"all": {Version: uint64(i), Digest: "d"}}
		allowed = append(allowed, i)
		if err := s.Save(m); err == nil {
			promised, allowed = i, []int{i}
			watched.cut()
		} else if !errors.Is(err, errInjected) {
			t.Fatal(err)
		} else if s.Memory().Documents["all"].Version != uint64(max(promised, 0)) {
			t.Errorf("after a failed save, version %d is remembered", s.Memory().Documents["all"].Version)
		}
	}
	return states, wrong
}

// findings are what starts found, by the state: many cuts leave the same.
type findings map[string]int

func (f findings) open(t *testing.T, dir string, state map[string][]byte) int {
	t.Helper()
	key := fmt.Sprint(state)
	if _, known := f[key]; !known {
		put(t, dir, state)
		f[key] = reopen(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	return f[key]
}

// watch looks at the disk after each call.
type watch struct {
	*disk
	cut func()
}

func (w *watch) Create(name string) (File, error) {
	f, err := w.disk.Create(name)
	w.cut()
	return &watchedFile{f, w}, err
}

func (w *watch) Rename(from, to string) error { defer w.cut(); return w.disk.Rename(from, to) }
func (w *watch) Remove(name string) error     { defer w.cut(); return w.disk.Remove(name) }
func (w *watch) Sync() error                  { defer w.cut(); return w.disk.Sync() }

type watchedFile struct {
	File
	w *watch
}

func (f *watchedFile) Write(b []byte) (int, error) { defer f.w.cut(); return f.File.Write(b) }
func (f *watchedFile) Sync() error                 { defer f.w.cut(); return f.File.Sync() }

// reopen is the version that a start finds; -1: none, -2: it was lost.
func reopen(t *testing.T, dir string) int {
	t.Helper()
	s, report, err := Open(dir, Applied{}, now)
	switch {
	case err != nil:
		t.Fatal(err)
	case report.Lost:
		return -2
	case report.Fresh:
		return -1
	}
	return int(s.Memory().Documents["all"].Version)
}
