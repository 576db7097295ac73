package buffer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// walkEnv makes the test binary a walker: it opens each file that it is told on
// its input with bbolt, walks all of it, and answers.
const walkEnv = "SLUICE_WALK_FILES"

// walkFiles is the walker. What bbolt does to it is the test's business, so
// nothing is recovered.
func walkFiles(in io.Reader, out io.Writer) {
	debug.SetMaxStack(32 << 20)
	go func() { // a cursor that runs in a ring takes gigabytes in seconds
		for range time.Tick(20 * time.Millisecond) {
			var m runtime.MemStats
			if runtime.ReadMemStats(&m); m.HeapAlloc > 128<<20 {
				fmt.Fprintln(os.Stderr, "runs on and on, or takes too much memory")
				os.Exit(3)
			}
		}
	}()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		answer := "ok"
		if err := walkFile(lines.Text()); err != nil {
			answer = fmt.Sprintf("%q", err)
		}
		fmt.Fprintln(out, answer)
	}
}

func walkFile(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error { return walkBucket(tx.Cursor(), tx.Bucket) })
}

// walkBucket goes through a bucket in both directions, seeks every key, and
// touches every byte.
func walkBucket(c *bbolt.Cursor, bucket func([]byte) *bbolt.Bucket) error {
	var keys [][]byte
	sum := byte(0)
	for k, v := c.First(); k != nil; k, v = c.Next() {
		keys = append(keys, k)
		for _, b := range v {
			sum ^= b
		}
		if v != nil {
			continue
		}
		sub := bucket(k)
		if err := walkBucket(sub.Cursor(), sub.Bucket); err != nil {
			return err
		}
	}
	n := len(keys)
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		if n--; n < 0 || !bytes.Equal(k, keys[n]) {
			return fmt.Errorf("backward, key %x is not number %d of %d (%d)", k, n, len(keys), sum)
		}
	}
	for _, key := range keys {
		if k, _ := c.Seek(key); !bytes.Equal(k, key) {
			return fmt.Errorf("seek %x finds %x", key, k)
		}
		_, _ = c.Seek(append(bytes.Clone(key), 0))
		_, _ = c.Seek(key[:len(key)-1])
	}
	if n != 0 {
		return fmt.Errorf("%d keys forward, %d fewer backward", len(keys), n)
	}
	return nil
}

// walker is a walking process, started again when one dies.
type walker struct {
	t      testing.TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    chan string
	stderr bytes.Buffer
	walks  int
}

func newWalker(t testing.TB) *walker {
	w := &walker{t: t}
	t.Cleanup(w.stop)
	return w
}

func (w *walker) start() {
	w.t.Helper()
	w.stderr.Reset()
	w.cmd = exec.Command(os.Args[0])
	w.cmd.Env, w.cmd.Stderr = append(os.Environ(), walkEnv+"=1"), &w.stderr
	in, err := w.cmd.StdinPipe()
	out, err2 := w.cmd.StdoutPipe()
	if err := errors.Join(err, err2, w.cmd.Start()); err != nil {
		w.t.Fatal(err)
	}
	lines := make(chan string, 1)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	w.in, w.out = in, lines
}

func (w *walker) stop() {
	if w.cmd == nil {
		return
	}
	_ = w.cmd.Process.Kill()
	for range w.out {
	}
	_ = w.cmd.Wait()
	w.cmd = nil
}

// walk has path walked and returns how that ended, nil for well.
func (w *walker) walk(path string) error {
	w.t.Helper()
	if w.cmd == nil {
		w.start()
	}
	w.walks++
	if _, err := fmt.Fprintln(w.in, path); err != nil {
		w.t.Fatal(err)
	}
	select {
	case answer, alive := <-w.out:
		if !alive {
			w.stop()
			return fmt.Errorf("died: %.300s", w.stderr.String())
		}
		if answer != "ok" {
			return errors.New(answer)
		}
		return nil
	case <-time.After(30 * time.Second):
		w.stop()
		return errors.New("hung")
	}
}

// victim is a file that is damaged again and again.
type victim struct {
	t        testing.TB
	w        *walker
	path     string
	original []byte
	refused  map[string]int // by way of damage
	harmless map[string]int
}

func newVictim(t testing.TB, original []byte) *victim {
	return &victim{t: t, w: newWalker(t), path: filepath.Join(t.TempDir(), "victim.seg"), original: original, refused: map[string]int{}, harmless: map[string]int{}}
}

// try judges damaged; what is accepted must be harmless to bbolt.
func (v *victim) try(way string, damaged []byte) {
	v.t.Helper()
	err := checkTree(bytes.NewReader(damaged), int64(len(damaged)))
	if err != nil {
		if !errors.Is(err, errDamaged) {
			v.t.Fatalf("%s: %v", way, err)
		}
		v.refused[way]++
		return
	}
	v.harmless[way]++
	if err := os.WriteFile(v.path, damaged, 0o600); err != nil {
		v.t.Fatal(err)
	}
	if err := checkPages(v.path); err != nil {
		v.t.Fatalf("%s: from a file: %v", way, err)
	}
	if err := v.w.walk(v.path); err != nil {
		for i := range damaged {
			if i < len(v.original) && damaged[i] != v.original[i] {
				v.t.Logf("at %d: %#x, was %#x", i, damaged[i], v.original[i])
				break
			}
		}
		v.t.Fatalf("%s: accepted, and bbolt %v", way, err)
	}
}

func (v *victim) report() {
	v.t.Helper()
	refused, harmless := 0, 0
	ways := maps.Clone(v.refused)
	maps.Copy(ways, v.harmless)
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		v.t.Logf("%-28s %6d refused %6d accepted", way, v.refused[way], v.harmless[way])
		refused, harmless = refused+v.refused[way], harmless+v.harmless[way]
	}
	v.t.Logf("%-28s %6d refused %6d accepted and harmless", "all", refused, harmless)
}

// spot is a byte of the structure.
type spot struct {
	at   int
	what string
}

// spots lists the bytes of a sound file that tell bbolt something: of the meta
// pages, and of the pages, elements, keys and buckets of the tree.
func spots(file []byte) (out []spot) {
	add := func(what string, at, n int) {
		for i := range n {
			out = append(out, spot{at + i, what})
		}
	}
	m, _, err := readMetas(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil
	}
	u32 := func(at int) int { return int(binary.NativeEndian.Uint32(file[at:])) }
	u64 := func(at int) int { return int(binary.NativeEndian.Uint64(file[at:])) }
	var page func(at int, inline string)
	page = func(at int, inline string) {
		leaf := file[at+8] == leafPage
		add(inline+"page", at, 16)
		for i := range int(binary.NativeEndian.Uint16(file[at+10:])) {
			e := at + 16 + 16*i
			if !leaf {
				add("branch element", e, 16)
				add("branch key", e+u32(e), u32(e+4))
				page(u64(e+8)*int(m.pageSize), "")
				continue
			}
			add(inline+"leaf element", e, 16)
			add(inline+"key", e+u32(e+4), u32(e+8))
			if value := e + u32(e+4) + u32(e+8); file[e] == 1 {
				add("bucket", value, 16)
				if root := u64(value); root != 0 {
					page(root*int(m.pageSize), "")
				} else {
					page(value+16, "inline ")
				}
			}
		}
	}
	add("meta", 0, 80)
	add("meta", int(m.pageSize), 80)
	if m.freelist != noFreelist {
		add("freelist", int(m.freelist)*int(m.pageSize), 64)
	}
	page(int(m.root)*int(m.pageSize), "")
	return out
}

// reseal makes the checksums of both meta pages right.
func reseal(file []byte, pageSize int) {
	for _, at := range []int{16, pageSize + 16} {
		if at+64 <= len(file) {
			h := fnv.New64a()
			_, _ = h.Write(file[at:][:56])
			binary.NativeEndian.PutUint64(file[at+56:], h.Sum64())
		}
	}
}
