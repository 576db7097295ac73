package audit

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var plant = map[string]int32{"plant.process": 3}

func TestOneLostAndOneDoubledAreFound(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 500, 137)...)
	r.produce(t, event(311))
	l := only(t, r.audit(t, "plant.process"))
	if l.Unexplained != 1 || !slices.Equal(l.UnexplainedExamples, []Range{{137, 137}}) || l.UnexplainedRanges != 1 {
		t.Errorf("unexplained %d %v, want 137", l.Unexplained, l.UnexplainedExamples)
	}
	if l.Duplicates != 1 || len(l.DuplicateExamples) != 1 || l.DuplicateExamples[0].Seq != 311 || l.DuplicateExamples[0].Partition != 311%7%3 {
		t.Errorf("duplicates %d %+v, want 311", l.Duplicates, l.DuplicateExamples)
	}
	if !slices.Equal(l.DeliveredRanges, []Range{{1, 136}, {138, 500}}) || l.DeliveredRangeCount != 2 || len(l.ExplainedRanges) != 0 || l.ExplainedRangeCount != 0 {
		t.Errorf("delivered %d %v, explained %d %v", l.DeliveredRangeCount, l.DeliveredRanges, l.ExplainedRangeCount, l.ExplainedRanges)
	}
	if l.Delivered != 499 || l.Records != 500 || l.Last != 500 || l.Begins != FromStart || l.OutOfOrder != 0 || l.CutOff != 0 {
		t.Errorf("lane %+v", l)
	}
}

func TestGapRecordsExplain(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 100, 10, 11, 12, 13, 20, 21, 22, 30, 31, 32)...)
	r.produce(t, gap(101, 10, 13, "drop_oldest"), gap(102, 20, 23, "restart"), // 23 is there: it was delivered before the crash
		gap(103, 30, 34, "thinned", 31, 33, 34)) // 31 was kept, and is not there
	l := only(t, r.audit(t, "plant.process"))
	if want := map[string]uint64{"drop_oldest": 4, "restart": 3, "thinned": 2}; !maps.Equal(l.Explained, want) {
		t.Errorf("explained %v, want %v", l.Explained, want)
	}
	explained := []ExplainedRange{{Range{10, 13}, "drop_oldest"}, {Range{20, 22}, "restart"}, {Range{30, 30}, "thinned"}, {Range{32, 32}, "thinned"}}
	if !slices.Equal(l.ExplainedRanges, explained) || l.ExplainedRangeCount != 4 {
		t.Errorf("explained in %d ranges %v, want %v", l.ExplainedRangeCount, l.ExplainedRanges, explained)
	}
	if delivered := []Range{{1, 9}, {14, 19}, {23, 29}, {33, 103}}; !slices.Equal(l.DeliveredRanges, delivered) || l.DeliveredRangeCount != 4 {
		t.Errorf("delivered in %d ranges %v, want %v", l.DeliveredRangeCount, l.DeliveredRanges, delivered)
	}
	if !slices.Equal(l.UnexplainedExamples, []Range{{31, 31}}) || l.GapRecords != 3 || l.Duplicates != 0 || l.Delivered != 93 {
		t.Errorf("lane %+v", l)
	}
}

func TestAGapRecordIsForItsOwnLaneOnly(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 10, 5)...)
	for _, lane := range []string{"gw-1/process/00000001", "gw-1/alarm/" + inc, "gw-2/process/" + inc} {
		r.produce(t, eventOf(lane, 1), eventOf(lane, 2), eventOf(lane, 3), eventOf(lane, 4), eventOf(lane, 5), eventOf(lane, 6), gapOf(lane, 7, 5, 5, "corrupt"))
	}
	res := r.audit(t, "plant.process")
	if res.Totals.Lanes != 4 || res.Totals.LanesIncomplete != 1 || res.Totals.Unexplained != 1 || len(res.Totals.Explained) != 0 {
		t.Errorf("totals %+v", res.Totals)
	}
}

func TestGapRecordsThatSayTooMuchAreNotBelieved(t *testing.T) {
	r := newRig(t, plant)
	bad := gap(13, 5, 5, "corrupt")
	bad.Value = []byte("{")
	r.produce(t, events(1, 10, 5)...)
	r.produce(t, gap(11, 5, 11, "corrupt"), gap(12, 5, 1<<62, "corrupt"), bad, gap(14, 7, 5, "corrupt"), gap(15, 5, 5, ""), gap(16, 5, 6, "thinned", 9))
	res := r.audit(t, "plant.process")
	if l := only(t, res); l.Unexplained != 1 || l.Delivered != 15 || len(l.Explained) != 0 {
		t.Errorf("lane %+v", l)
	}
	if res.Totals.Malformed != 6 || len(res.Malformed) != 6 || res.Malformed[0].ID != "gw-1/process/0badcafe/11" {
		t.Errorf("malformed %d: %+v", res.Totals.Malformed, res.Malformed)
	}
}

func TestForeignAndMalformedRecordsAreCounted(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 10)...)
	other := func(headers ...string) *kgo.Record {
		rec := &kgo.Record{Topic: "plant.process", Partition: 1, Value: []byte("x"), Timestamp: origin}
		for i := 0; i < len(headers); i += 2 {
			header(rec, headers[i], headers[i+1])
		}
		return rec
	}
	r.produce(t, other(), other(headerID, "gw-1/process/0badcafe/11"), other(headerID, "77", headerType, "com.example.order"))
	ids := []string{"", "gw-1/process/0badcafe/0", "gw-1/process/0badcafe/007", "gw-1/process/0badcafe/-1", "gw-1/process/0badcafe/12x",
		"gw-1/process/0badcafe/9223372036854775808", "gw-1/process/0badcafe/99999999999999999999", "gw-1/process/badcafe/3", "gw-1/process/0BADCAFE/3",
		"gw-1/3", "/process/0badcafe/3", "gw 1/process/0badcafe/3", "a/b/c/0badcafe/3", "\xff\xfe"}
	for _, id := range ids {
		r.produce(t, other(headerID, id, headerType, "sluice.mqtt.message.v1"))
	}
	res := r.audit(t, "plant.process")
	if res.Totals.Foreign != 3 || res.Totals.Malformed != uint64(len(ids)) || len(res.Malformed) != maxExamples {
		t.Errorf("foreign %d, malformed %d (%d examples), want 3, %d", res.Totals.Foreign, res.Totals.Malformed, len(res.Malformed), len(ids))
	}
	if l := only(t, res); l.Delivered != 10 || l.Unexplained != 0 {
		t.Errorf("lane %+v", l)
	}
}

func TestReplayedRecordsAreNoDuplicates(t *testing.T) {
	r := newRig(t, map[string]int32{"plant.process": 3, "again": 1})
	r.produce(t, events(1, 20, 8)...)
	for n := uint64(5); n <= 9; n++ { // one of them stands for what was lost
		again := header(event(n), headerReplay, "r-1")
		again.Topic, again.Partition = "again", 0
		r.produce(t, again)
	}
	if l := only(t, r.audit(t, "plant.process,again")); l.Replayed != 5 || l.Duplicates != 0 || l.Unexplained != 0 || l.Delivered != 20 || l.OutOfOrder != 0 {
		t.Errorf("lane %+v", l)
	} else if !slices.Equal(l.DeliveredRanges, []Range{{1, 20}}) || l.DeliveredRangeCount != 1 {
		t.Errorf("delivered in %d ranges %v", l.DeliveredRangeCount, l.DeliveredRanges)
	}
}

func TestOrderIsCheckedByKeyAndPartition(t *testing.T) {
	r := newRig(t, plant)
	recs := events(1, 70)
	recs[30], recs[37] = recs[37], recs[30] // of one key
	recs[40], recs[41] = recs[41], recs[40] // of two keys
	for _, i := range []int{50, 51} {       // neighbours of one key
		recs[i].Key, recs[i].Partition = []byte("one key"), 0
	}
	recs[50], recs[51] = recs[51], recs[50]
	r.produce(t, recs...)
	r.produce(t, event(33)) // sent again after a crash
	late := header(event(72), headerLate, "true")
	r.produce(t, event(79), late, event(71), event(73), event(74), event(75), event(76), event(77), event(78))
	if l := only(t, r.audit(t, "plant.process")); l.OutOfOrder != 2 || l.Duplicates != 1 || l.Unexplained != 0 {
		t.Errorf("lane %+v", l)
	}
}

func TestOlderIncarnationsSayWhatFollowed(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 30)...)
	for n := uint64(41); n <= 50; n++ { // the buffer knew 40 numbers when it drew a new incarnation
		r.produce(t, eventOf("gw-1/process/00000002", n))
	}
	r.produce(t, gapOf("gw-1/process/00000002", 51, 1, 40, "restart"))
	for n := uint64(5); n <= 9; n++ { // a new disk
		rec := eventOf("gw-1/process/00000003", n)
		rec.Timestamp = rec.Timestamp.Add(time.Hour)
		r.produce(t, rec)
	}
	r.produce(t, gapOf("gw-1/process/00000003", 10, 1, 3, "restart"), gapOf("gw-1/process/00000003", 11, 4, 4, "corrupt"))
	all := slices.Collect(r.audit(t, "plant.process").Lanes())
	if len(all) != 3 {
		t.Fatalf("%d lanes", len(all))
	}
	if all[0].FollowedBy != "00000002" || all[0].FollowedAfter != 40 || all[0].Last != 30 || all[0].Unexplained != 0 {
		t.Errorf("first %+v", all[0])
	}
	if all[1].FollowedBy != "00000003" || all[1].FollowedAfter != 0 || all[1].Explained["restart"] != 40 || all[1].Begins != FromStart {
		t.Errorf("second %+v", all[1])
	}
	if all[2].FollowedBy != "" || all[2].Unexplained != 0 {
		t.Errorf("third %+v", all[2])
	}
}

func TestTwoClustersAreOne(t *testing.T) {
	a, b := newRig(t, plant), newRig(t, plant)
	a.produce(t, events(1, 40)...)
	b.produce(t, events(40, 60, 55)...) // 40 went to both
	a.produce(t, events(61, 80)...)
	both := func(c *Config) { c.Clusters = append(c.Clusters, b.cluster()) }
	l := only(t, a.audit(t, "plant.process", both))
	if !slices.Equal(l.UnexplainedExamples, []Range{{55, 55}}) || l.Duplicates != 1 || l.Delivered != 79 {
		t.Errorf("lane %+v", l)
	}
	if l := only(t, a.audit(t, "plant.process")); l.Unexplained != 20 {
		t.Errorf("one cluster alone: %+v", l)
	}
}

func TestTopicsByPattern(t *testing.T) {
	r := newRig(t, map[string]int32{"plant.process": 3, "plant.alarm": 1, "plants": 1, "other.process": 1})
	r.produce(t, events(1, 10)...)
	alarm := eventOf("gw-1/alarm/"+inc, 1)
	alarm.Topic, alarm.Partition = "plant.alarm", 0
	r.produce(t, alarm)
	for pattern, want := range map[string]string{
		"plant.{class}": "plant.alarm plant.process", "plant.*": "plant.alarm plant.process", "plant*": "plant.alarm plant.process plants",
		`^plant\.(alarm|x)`: "plant.alarm", "plant.process,plant.alarm": "plant.alarm plant.process", "*.{class}": "other.process plant.alarm plant.process",
	} {
		var got []string
		for _, topic := range r.audit(t, pattern).Topics {
			got = append(got, topic.Name)
		}
		if slices.Sort(got); strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", pattern, got, want)
		}
	}
	res := r.audit(t, "plant.{class}", func(c *Config) { c.Classes = []string{"alarm"} })
	if l := only(t, res); l.Class != "alarm" || res.Totals.Filtered != 10 {
		t.Errorf("lane %+v, totals %+v", l, res.Totals)
	}
}

func TestWrongConfiguration(t *testing.T) {
	good := Cluster{Brokers: []string{"127.0.0.1:1"}}
	for name, c := range map[string]Config{
		"no cluster":    {Topics: []string{"t"}},
		"no broker":     {Topics: []string{"t"}, Clusters: []Cluster{{}}},
		"no topic":      {Clusters: []Cluster{good}},
		"empty topic":   {Clusters: []Cluster{good}, Topics: []string{""}},
		"bad regex":     {Clusters: []Cluster{good}, Topics: []string{"^("}},
		"bad brace":     {Clusters: []Cluster{good}, Topics: []string{"plant.{class"}},
		"small memory":  {Clusters: []Cluster{good}, Topics: []string{"t"}, Memory: 1},
		"empty range":   {Clusters: []Cluster{good}, Topics: []string{"t"}, From: origin, To: origin},
		"bad mechanism": {Clusters: []Cluster{{Brokers: good.Brokers, Login: Login{Mechanism: "x", Username: "u", Password: func() (string, error) { return "", nil }}}}, Topics: []string{"t"}},
		"no password":   {Clusters: []Cluster{{Brokers: good.Brokers, Login: Login{Mechanism: "plain", Username: "u"}}}, Topics: []string{"t"}},
	} {
		if _, err := Run(t.Context(), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATopicThatIsNotThere(t *testing.T) {
	r := newRig(t, plant)
	for _, topic := range []string{"missing", "missing.{class}"} {
		_, err := Run(t.Context(), Config{Clusters: []Cluster{r.cluster()}, Topics: []string{"plant.process", topic}})
		if err == nil || !strings.Contains(err.Error(), topic) || errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", topic, err)
		}
	}
}

func TestNoBrokerAnswers(t *testing.T) {
	_, err := Run(t.Context(), Config{Clusters: []Cluster{{Brokers: []string{"127.0.0.1:1"}}}, Topics: []string{"t"}, Patience: time.Second})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("error %v", err)
	}
}

func TestAWrongPasswordIsSaid(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "admin", "right"), kfake.SeedTopics(1, "plant.process"))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	for _, password := range []string{"right", "secret-7"} {
		login := Login{Mechanism: "scram-sha-256", Username: "admin", Password: func() (string, error) { return password, nil }}
		_, err := Run(t.Context(), Config{Clusters: []Cluster{{Brokers: fake.ListenAddrs(), Login: login}}, Topics: []string{"plant.process"}, Patience: 20 * time.Second})
		if (err == nil) != (password == "right") {
			t.Errorf("password %s: %v", password, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret-7") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestInterruptedShowsWhatThereIs(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 100)...)
	ctx, cancel := context.WithCancel(t.Context())
	r.fake.ControlKey(1, func(kmsg.Request) (kmsg.Response, error, bool) { cancel(); return nil, nil, false })
	res, err := Run(ctx, Config{Clusters: []Cluster{r.cluster()}, Topics: []string{"plant.process"}})
	if err != nil {
		t.Fatal(err)
	}
	if !res.Unread || len(res.Incomplete) == 0 || !strings.HasPrefix(res.Incomplete[0], "interrupted") {
		t.Errorf("incomplete %q", res.Incomplete)
	}
}
