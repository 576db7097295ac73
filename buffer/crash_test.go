package buffer

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The child of TestKillLosesNothingThatWasAcknowledged: it appends events
// without end and prints the number of each as soon as it is acknowledged.
const (
	crashDir  = "SLUICE_CRASH_DIR"
	crashFrom = "SLUICE_CRASH_FROM"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := appendUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(walkEnv) != "" {
		walkFiles(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashConfig makes small segments, so that kills hit sealing, too.
func crashConfig(dir string) Config {
	return Config{Dir: dir, Classes: []Class{{Name: "process", KeepBytes: 64 << 20}}, Uplinks: map[string][]string{"central": nil},
		Segment: 1 << 20, CommitDelay: time.Millisecond, Memory: 1 << 20}
}

func appendUntilKilled(dir string) error {
	var from int
	if _, err := fmt.Sscan(os.Getenv(crashFrom), &from); err != nil {
		return err
	}
	b, err := Open(crashConfig(dir))
	if err != nil {
		return err
	}
	go func() {
		if err := b.Run(context.Background()); err != nil {
			panic(err)
		}
	}()
	for n := from; ; n++ {
		e := event("process", n)
		if n%3 == 0 {
			e.Payload = append(append(e.Payload, 10), noise(n, 700)...)
		}
		err := b.Append(context.Background(), e, func(err error) {
			if err == nil {
				fmt.Printf("%d\n", n) // unbuffered: it is out before the next is acknowledged
			}
		})
		if err != nil {
			return err
		}
	}
}

func TestKillLosesNothingThatWasAcknowledged(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	dir, next, delivered := t.TempDir(), 0, 0
	for kill := range 25 {
		acked := runAndKill(t, dir, next, time.Duration(1+rnd.IntN(120))*time.Millisecond)
		got := readAll(t, dir)
		for i, e := range got {
			if n := number(t, e); n != delivered+i {
				t.Fatalf("kill %d: place %d holds event %d", kill, delivered+i, n)
			}
		}
		delivered += len(got)
		if delivered <= acked {
			t.Fatalf("kill %d: event %d was acknowledged, %d are there", kill, acked, delivered)
		}
		next = delivered
	}
	t.Logf("25 kills, %d events, none missing", delivered)
}

func number(t *testing.T, e numbered) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(string(e.Payload), "event %d", &n); err != nil {
		t.Fatalf("payload %.40q: %v", e.Payload, err)
	}
	return n
}

// runAndKill lets a child append events numbered from on for a while and returns
// the last that it saw acknowledged, -1 for none.
func runAndKill(t *testing.T, dir string, from int, after time.Duration) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("%s=%d", crashFrom, from))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked, lines := -1, bufio.NewScanner(out)
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }) // it never got going
	for lines.Scan() {
		if acked < 0 {
			timer.Reset(after)
		}
		if _, err := fmt.Sscan(strings.TrimSpace(lines.Text()), &acked); err != nil {
			break // the last line may be cut
		}
	}
	_ = cmd.Wait() // killed
	if acked < 0 {
		t.Fatal("the child acknowledged nothing in a minute")
	}
	return acked
}

// readAll opens what the kill left, reads and acknowledges all of it.
func readAll(t *testing.T, dir string) []numbered {
	t.Helper()
	b, err := Open(crashConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	rd, err := b.Reader("central")
	if err != nil {
		t.Fatal(err)
	}
	var got []numbered
	st := b.Stats().Classes["process"]
	for n := st.Uplinks["central"].Acked + 1; n < st.Next; {
		batch := next(t, rd)
		for i, e := range batch.Events {
			got = append(got, numbered{batch.First + uint64(i), e})
		}
		n = batch.Last() + 1
	}
	rd.Ack("process", st.Next-1)
	return got
}
