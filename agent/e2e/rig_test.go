//go:build e2e

package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// helperEnv makes the test binary a stand-in for a test run that is killed.
const helperEnv = "SLUICE_E2E_HOLD_A_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		holdChild(dir)
	}
	os.Exit(m.Run())
}

// holdChild starts a child as the rig does, prints its pid and never returns.
func holdChild(dir string) {
	p, err := launch(command{name: "child", dir: dir, args: []string{"sleep", "300"}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.cmd.Process.Pid)
	select {}
}

func TestChildrenEndWithATestThatIsKilled(t *testing.T) {
	helper := exec.Command(os.Args[0])
	helper.Env = append(os.Environ(), helperEnv+"="+t.TempDir())
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		t.Fatalf("the helper printed %q (%v)", line, err)
	}
	if !alive(pid) {
		t.Fatalf("the helper's child %d does not run", pid)
	}
	_ = helper.Process.Kill()
	_ = helper.Wait()
	waitFor(t, "the end of the child", func() bool { return !alive(pid) })
}

func TestStopEndsGrandchildrenToo(t *testing.T) {
	p := startProcess(t, command{name: "shell", dir: t.TempDir(), args: []string{"sh", "-c", "sleep 300 & echo $!; wait"}})
	waitFor(t, "the grandchild's pid", func() bool { return strings.HasSuffix(p.log(), "\n") }, p)
	pid, err := strconv.Atoi(strings.TrimSpace(p.log()))
	if err != nil || !alive(pid) {
		t.Fatalf("no grandchild: %q", p.log())
	}
	p.kill()
	waitFor(t, "the end of the grandchild", func() bool { return !alive(pid) })
}

// alive tells whether pid runs; one that ended and was not collected does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

func TestProxy(t *testing.T) {
	for _, c := range []struct {
		name     string
		mode     linkMode
		survives bool // the open connection works again after the link healed
		old, new func(*testing.T, net.Conn, error)
	}{
		{"pass carries old and new connections", pass, true, wantEcho, wantEcho},
		{"refuse resets old connections and refuses new ones", refuse, false, wantReset, wantRefused},
		{"reset resets old and new connections", reset, false, wantReset, wantReset},
		{"swallow keeps both open without an answer", swallow, false, wantSilence, wantSilence},
		{"swallowAnswers keeps both open without an answer", swallowAnswers, false, wantSilence, wantSilence},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startProxy(t, startEcho(t))
			old, err := net.Dial("tcp", p.addr)
			wantEcho(t, old, err)
			p.set(t, c.mode)
			c.old(t, old, err)
			fresh, err := net.Dial("tcp", p.addr)
			c.new(t, fresh, err)
			p.set(t, pass)
			if !c.survives {
				wantReset(t, old, nil)
			}
			healed, err := net.Dial("tcp", p.addr)
			wantEcho(t, healed, err)
		})
	}
}

// startEcho starts a server that sends back what it gets.
func startEcho(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return ln.Addr().String()
}

// ask sends a word and returns what comes back within the time.
func ask(conn net.Conn, within time.Duration) (string, error) {
	if _, err := conn.Write([]byte("word")); err != nil {
		return "", err
	}
	_ = conn.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, 4)
	n, err := io.ReadFull(conn, buf)
	return string(buf[:n]), err
}

func wantEcho(t *testing.T, conn net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	if got, err := ask(conn, patience); got != "word" || err != nil {
		t.Fatalf("answer %q, %v; want the echo", got, err)
	}
}

func wantSilence(t *testing.T, conn net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	if got, err := ask(conn, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("answer %q, %v; want none", got, err)
	}
}

func wantReset(t *testing.T, conn net.Conn, err error) {
	t.Helper()
	if err == nil {
		_, err = ask(conn, patience)
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("error %v; want a reset", err)
	}
}

func wantRefused(t *testing.T, _ net.Conn, err error) {
	t.Helper()
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("dial: %v; want it refused", err)
	}
}

// message is the record that an agent makes of message n of a machine.
func message(seq, machine, n int) *kgo.Record {
	r := &kgo.Record{Key: []byte(topicOf(machine)), Value: payloadOf(machine, n), Timestamp: time.UnixMilli(1700000000123)}
	return withHeaders(r, seq, "sluice.mqtt.message.v1", topicOf(machine))
}

func gap(seq, first, last int) *kgo.Record {
	r := &kgo.Record{Key: []byte("gap"), Timestamp: time.UnixMilli(1700000000123)}
	r.Value = fmt.Appendf(nil, `{"first":%d,"last":%d,"count":%d,"reason":"restart"}`, first, last, last-first+1)
	return withHeaders(r, seq, "sluice.gap.v1", "process")
}

func withHeaders(r *kgo.Record, seq int, kind, subject string) *kgo.Record {
	for _, h := range [][2]string{
		{"ce_specversion", "1.0"}, {"ce_id", fmt.Sprintf("%s/process/0123abcd/%d", agentID, seq)},
		{"ce_source", "/" + agentID + "/" + mqttName}, {"ce_type", kind}, {"ce_subject", subject},
		{"ce_time", r.Timestamp.UTC().Format("2006-01-02T15:04:05.000000000Z")}, {"content-type", "application/json"},
	} {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	return r
}

// round returns the first total messages, numbered from 1.
func round(total int) []*kgo.Record {
	var all []*kgo.Record
	for i := range total {
		all = append(all, message(i+1, i%machines, i/machines+1))
	}
	return all
}

func checkLedgerFindsFaults(t *testing.T, k *kafka) {
	const total = 3 * machines
	for i, c := range []struct {
		name string
		make func(r []*kgo.Record) []*kgo.Record
		want string // of the report
	}{
		{"all in order", func(r []*kgo.Record) []*kgo.Record { return r },
			"sent=60 delivered=60 missing=0 duplicates=0 reordered=0 repeated_ids=0 gap_explained=0"},
		{"one missing", func(r []*kgo.Record) []*kgo.Record { return append(r[:30:30], r[31:]...) },
			"sent=60 delivered=59 missing=1 duplicates=0 reordered=0 repeated_ids=0 gap_explained=0 sequence=1"},
		{"one delivered twice", func(r []*kgo.Record) []*kgo.Record { return append(r, message(31, 10, 2)) },
			"sent=60 delivered=60 missing=0 duplicates=1 reordered=0 repeated_ids=1 gap_explained=0"},
		{"one taken twice", func(r []*kgo.Record) []*kgo.Record { return append(r, message(61, 19, 3)) },
			"sent=60 delivered=60 missing=0 duplicates=1 reordered=0 repeated_ids=0 gap_explained=0"},
		{"two of one key swapped on the way", func(r []*kgo.Record) []*kgo.Record { r[5], r[25] = r[25], r[5]; return r },
			"sent=60 delivered=60 missing=0 duplicates=0 reordered=1 repeated_ids=0 gap_explained=0"},
		{"two of one key swapped before the sequence", func(r []*kgo.Record) []*kgo.Record {
			r[5], r[25] = message(6, 5, 2), message(26, 5, 1)
			return r
		}, "sent=60 delivered=60 missing=0 duplicates=0 reordered=1 repeated_ids=0 gap_explained=0"},
		{"a number left out, explained by a gap record", func(r []*kgo.Record) []*kgo.Record {
			r[59] = message(63, 19, 3)
			return append(r, gap(64, 60, 62))
		}, "sent=60 delivered=60 missing=0 duplicates=0 reordered=0 repeated_ids=0 gap_explained=3"},
		{"one number for two events", func(r []*kgo.Record) []*kgo.Record { r[59] = message(59, 19, 3); return r },
			"sent=60 delivered=60 missing=0 duplicates=0 reordered=0 repeated_ids=1 gap_explained=0 conflict=1"},
		{"a payload altered", func(r []*kgo.Record) []*kgo.Record { r[7].Value[20] ^= 1; r[7].Value[30] ^= 1; return r },
			"sent=60 delivered=60 missing=0 duplicates=0 reordered=0 repeated_ids=0 gap_explained=0 altered=1"},
		{"a header missing", func(r []*kgo.Record) []*kgo.Record { r[9].Headers = r[9].Headers[:6]; return r },
			"sent=60 delivered=59 missing=1 duplicates=0 reordered=0 repeated_ids=0 gap_explained=0 header=1 sequence=1"},
		{"one that nobody sent", func(r []*kgo.Record) []*kgo.Record { return append(r, message(61, 3, 4)) },
			"sent=60 delivered=60 missing=0 duplicates=0 reordered=0 repeated_ids=0 gap_explained=0 foreign=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			topic := fmt.Sprintf("ledger-%d", i)
			k.createTopic(t, topic)
			client := k.client(t, kgo.DefaultProduceTopic(topic))
			if err := client.ProduceSync(t.Context(), c.make(round(total))...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			l := newLedger(agentID, mqttName, className, total)
			newConsumer(t, k, topic).rest(t, l.add)
			if got := l.report().String(); got != c.want {
				t.Errorf("report\n got %s\nwant %s\n%v", got, c.want, l.example)
			}
		})
	}
}

func TestPymodbusServesItsRegistersAgainAfterAKill(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	for _, energy := range []uint64{123456789, 1 << 40} {
		p := startPymodbus(t, dir, port, registers{energy: energy})
		conn, err := net.Dial("tcp", loopback(port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// Read four input registers from 100 of unit 3 (MODBUS Messaging on TCP/IP V1.0b §3.1.3).
		request := []byte{0, 1, 0, 0, 0, 6, 3, 4, 0, 100, 0, 4}
		answer := make([]byte, 17)
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint64(answer[9:]); got != energy {
			t.Errorf("energy %d, want %d", got, energy)
		}
		p.kill()
	}
}
