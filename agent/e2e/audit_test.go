//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestAudit holds "sluice audit" against topics of which the test knows what is
// missing and what is there twice.
func TestAudit(t *testing.T) {
	k := startKafka(t, t.TempDir())
	for _, s := range []struct {
		name string
		run  func(*testing.T, *kafka)
	}{{"copy", auditOfACopy}, {"kill-9", auditAfterKills}, {"fleet", auditOfAFleet}, {"broker-time", auditByEventTime}} {
		t.Run(s.name, func(t *testing.T) { s.run(t, k) })
	}
}

// verdict is what "sluice audit --json" prints, as far as it is looked at.
type verdict struct {
	Complete bool
	Warnings []string
	Totals   struct {
		Lanes                                                        int
		Records, Delivered, Unexplained, Duplicates, Foreign, CutOff uint64
		OutOfOrder                                                   uint64 `json:"out_of_order"`
		Explained                                                    map[string]uint64
	}
	Lanes []struct {
		Begins              string
		Last                uint64
		CutOff              uint64              `json:"cut_off"`
		UnexplainedExamples []map[string]uint64 `json:"unexplained_examples"`
		DuplicateExamples   []struct {
			Seq       uint64
			Partition int32
			Offset    int64
		} `json:"duplicate_examples"`
	}
}

// runAudit runs the program, which has to end with this exit status.
func runAudit(t *testing.T, want int, args ...string) (v verdict) {
	t.Helper()
	cmd := exec.Command(sluiceBinary(t), append([]string{"audit", "--json", "--settle", "1s"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("audit %v: exit status %d, want %d\n%s%.2000s", args, got, want, errs.String(), out.String())
	}
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatalf("audit %v: %v\n%s", args, err, out.String())
	}
	return v
}

// auditOfACopy has the agent fill a topic, copies it without one record and with
// another one twice, and cuts the copy's head off.
func auditOfACopy(t *testing.T, k *kafka) {
	p := newPlant(t, k)
	p.agent.startReady(t)
	startPublisher(t, p.broker, total, 0).waitAcked(t, total)
	wantOnce(t, p.settle(t, total))

	v := runAudit(t, 0, "-c", p.agent.config, "--uplink", "central") // whose link is the one that can be cut
	if v.Totals.Lanes != 1 || v.Totals.Delivered != total || v.Totals.Unexplained+v.Totals.Duplicates+v.Totals.Foreign > 0 || !v.Complete {
		t.Fatalf("the topic as it is: %+v", v)
	}
	const lost, doubled = total * 7 / 10, total * 8 / 10
	copied, rest := p.topic+".copy", p.topic+".rest"
	at := copyTopic(t, k, p.topic, copied, rest, lost, doubled)
	args := []string{"--brokers", k.internal, "--topic", copied}
	for _, cut := range []bool{false, true} {
		if cut {
			cutHeads(t, k, copied, 500)
		}
		v = runAudit(t, 3, args...)
		l := v.Lanes[0]
		fmt.Printf("E2E audit cut=%t unexplained=%v duplicates=%v cut_off=%d begins=%s\n", cut, l.UnexplainedExamples, l.DuplicateExamples, l.CutOff, l.Begins)
		if want := []map[string]uint64{{"first": lost, "last": lost}}; v.Totals.Unexplained != 1 || !reflect.DeepEqual(l.UnexplainedExamples, want) {
			t.Errorf("unexplained %d, %v, want %d", v.Totals.Unexplained, l.UnexplainedExamples, lost)
		}
		if d := l.DuplicateExamples; v.Totals.Duplicates != 1 || len(d) != 1 || d[0].Seq != doubled || d[0].Partition != at.Partition || d[0].Offset != at.Offset {
			t.Errorf("duplicates %d, %v, want %d at %d@%d", v.Totals.Duplicates, d, doubled, at.Partition, at.Offset)
		}
		if (l.Begins == "cut") != cut || (l.CutOff > 0) != cut || l.Last != total {
			t.Errorf("begins %s, cut off %d, last %d", l.Begins, l.CutOff, l.Last)
		}
	}
	// What one topic lacks the other has.
	if v = runAudit(t, 0, append(args, "--topic", rest)...); v.Totals.Unexplained != 0 || v.Totals.Duplicates != 1 {
		t.Errorf("both topics: %+v", v.Totals)
	}
	runAudit(t, 3, append(args, "--topic", rest, "--strict")...)
}

// copyTopic copies records to the same partitions: all but number lost, which
// goes to the topic rest, and doubled twice. It returns the later one of those.
func copyTopic(t *testing.T, k *kafka, from, to, rest string, lost, doubled uint64) (again *kgo.Record) {
	t.Helper()
	k.createTopic(t, to)
	k.createTopic(t, rest)
	client := k.client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	produce := func(topic string, r *kgo.Record) *kgo.Record {
		c := &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}
		client.Produce(t.Context(), c, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		return c
	}
	newConsumer(t, k, from).rest(t, func(r *kgo.Record) {
		e, err := readEnvelope(r)
		if err != nil {
			t.Fatal(err)
		}
		if e.seq == lost {
			produce(rest, r)
			return
		}
		produce(to, r)
		if e.seq == doubled {
			again = produce(to, r)
		}
	})
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return again
}

// cutHeads deletes the first records of each partition.
func cutHeads(t *testing.T, k *kafka, topic string, n int64) {
	t.Helper()
	var before kadm.Offsets
	for p := range int32(4) {
		before.AddOffset(topic, p, n*int64(p+1), -1)
	}
	resp, err := k.admin.DeleteRecords(t.Context(), before)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// auditAfterKills lets the agent be killed while it holds events in memory and
// while it sends: gap records and duplicates have to add up to what the rig sees.
func auditAfterKills(t *testing.T, k *kafka) {
	p := newPlantWith(t, k, spillAfter)
	p.killWhileSending(t)
	l := newLedger(agentID, mqttName, className, total)
	newConsumer(t, k, p.topic).rest(t, l.add)
	r := l.report()
	v := runAudit(t, 0, "--brokers", k.internal, "--topic", p.topic)
	fmt.Printf("E2E audit kill-9 explained=%v duplicates=%d\n", v.Totals.Explained, v.Totals.Duplicates)
	if v.Totals.Unexplained != 0 || v.Totals.Duplicates != uint64(r.repeatedIDs) || v.Totals.Explained["restart"] == 0 || v.Totals.OutOfOrder != 0 {
		t.Errorf("audit %+v, the rig %s", v.Totals, r)
	}
}

// auditByEventTime reads a topic whose records have the time of their arrival: a
// range of time is one of the events all the same.
func auditByEventTime(t *testing.T, k *kafka) {
	const topic = "broker-time"
	kind := "LogAppendTime"
	if _, err := k.admin.CreateTopic(t.Context(), 2, 1, map[string]*string{"message.timestamp.type": &kind}, topic); err != nil {
		t.Fatal(err)
	}
	client := k.client(t, kgo.DefaultProduceTopic(topic))
	day := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for seq := 1; seq <= 100; seq++ {
		if seq == 50 {
			continue
		}
		r := message(seq, seq%machines, seq)
		for i := range r.Headers {
			if r.Headers[i].Key == "ce_time" {
				r.Headers[i].Value = day.Add(time.Duration(seq)*time.Second).AppendFormat(nil, "2006-01-02T15:04:05.000000000Z")
			}
		}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	v := runAudit(t, 3, "--brokers", k.internal, "--topic", topic, "--from", "2026-01-02T03:00:40Z", "--to", "2026-01-02T03:01:00Z")
	if v.Totals.Lanes != 1 || v.Totals.Delivered != 19 || v.Totals.Unexplained != 1 || v.Lanes[0].Begins != "window" || v.Lanes[0].Last != 59 {
		t.Errorf("audit %+v", v)
	}
}

// auditOfAFleet reads 30,000 lanes and bounds the memory of the process.
func auditOfAFleet(t *testing.T, k *kafka) {
	const agents, numbers, topic = 10_000, 30, "fleet"
	k.createTopic(t, topic)
	client := k.client(t, kgo.DefaultProduceTopic(topic), kgo.MaxBufferedRecords(50_000))
	var missing uint64
	for seq := 1; seq <= numbers; seq++ {
		for i := range agents * 3 {
			if i%100 == 7 && seq == 20 {
				missing++
				continue
			}
			id := fmt.Sprintf("gw-%05d/class-%d/%08x/%d", i/3, i%3, i/3, seq)
			r := &kgo.Record{Key: fmt.Appendf(nil, "machine-%d", i), Value: make([]byte, 200), Timestamp: time.Now(), Headers: []kgo.RecordHeader{
				{Key: "ce_id", Value: []byte(id)}, {Key: "ce_type", Value: []byte("sluice.mqtt.message.v1")}}}
			client.Produce(t.Context(), r, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sluiceBinary(t), "audit", "--brokers", k.internal, "--topic", topic, "--memory", "64MiB", "--settle", "0s", "--problems")
	var out bytes.Buffer
	cmd.Stdout = &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kib := make(chan int)
	go func() { kib <- mostMemory(cmd.Process.Pid) }()
	_ = cmd.Wait() // its exit status is looked at below
	took, most := time.Since(start), <-kib
	fmt.Printf("E2E audit fleet records=%d seconds=%.1f rss_kib=%d\n", agents*3*numbers-int(missing), took.Seconds(), most)
	if cmd.ProcessState.ExitCode() != 3 || !bytes.Contains(out.Bytes(), fmt.Appendf(nil, "lanes=30000 records=%d", agents*3*numbers-missing)) ||
		!bytes.Contains(out.Bytes(), fmt.Appendf(nil, "unexplained=%d ", missing)) {
		t.Errorf("exit status %d\n%.2000s", cmd.ProcessState.ExitCode(), out.String()[max(0, out.Len()-300):])
	}
	if most == 0 || most > 96<<10 {
		t.Errorf("%d KiB of memory with --memory 64MiB", most)
	}
}

// mostMemory watches a process to its end and returns the most memory that it
// had, in KiB. (Its rusage would count what this process has, too.)
func mostMemory(pid int) (kib int) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, after, found := bytes.Cut(status, []byte("VmHWM:"))
		if err != nil || !found { // it has ended
			return kib
		}
		if n := 0; len(after) > 0 {
			if _, err := fmt.Sscan(string(after), &n); err == nil {
				kib = max(kib, n)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}
