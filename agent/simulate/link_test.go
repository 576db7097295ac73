package simulate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// startLink puts a link before a cluster of three brokers.
func startLink(t *testing.T) (*kfake.Cluster, *Link) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(6, "t"))
	must(t, err)
	t.Cleanup(cluster.Close)
	l, err := NewLink(cluster.ListenAddrs()[0])
	must(t, err)
	runIn(t, l.Run)
	return cluster, l
}

// dialed collects the addresses that a client dials.
type dialed struct {
	mu    sync.Mutex
	addrs map[string]bool
}

func (d *dialed) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.addrs == nil {
		d.addrs = make(map[string]bool)
	}
	d.addrs[addr] = true
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func produceToEach(t *testing.T, ctx context.Context, client *kgo.Client, partitions int32) error {
	t.Helper()
	var records []*kgo.Record
	for p := range partitions {
		records = append(records, &kgo.Record{Topic: "t", Partition: p, Value: []byte("x")})
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}

func TestLinkCarriesAllBrokersAndNothingFindsAWayPastIt(t *testing.T) {
	cluster, l := startLink(t)
	var d dialed
	client, err := kgo.NewClient(kgo.SeedBrokers(l.Addr()), kgo.Dialer(d.dial),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond))
	must(t, err)
	defer client.Close()
	must(t, produceToEach(t, t.Context(), client, 6))
	d.mu.Lock()
	defer d.mu.Unlock()
	// Of two brokers at least: a client that has the seed's connection need not dial it again.
	if len(d.addrs) < 2 {
		t.Errorf("the client dialed %v, not the addresses of the brokers", d.addrs)
	}
	for _, broker := range cluster.ListenAddrs() {
		if d.addrs[broker] {
			t.Errorf("the client dialed the broker %s past the link", broker)
		}
	}
}

func TestLinkRefusesWhileItIsCutAndCarriesOnAfterwards(t *testing.T) {
	_, l := startLink(t)
	// A cut may come upon a new connection, which this client takes for a sign of TLS.
	client, err := kgo.NewClient(kgo.SeedBrokers(l.Addr()), kgo.MetadataMinAge(10*time.Millisecond), kgo.AlwaysRetryEOF(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }))
	must(t, err)
	defer client.Close()
	must(t, produceToEach(t, t.Context(), client, 6))
	for range 3 {
		l.Cut()
		if c, err := net.Dial("tcp", l.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial of a cut link: %v, %v", c, err)
		}
		done := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		go func() { done <- produceToEach(t, ctx, client, 6) }()
		select {
		case err := <-done:
			t.Fatalf("records went through a cut link: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		must(t, l.Heal())
		if err := <-done; err != nil {
			t.Fatalf("after the link healed: %v", err)
		}
		cancel()
	}
}

func TestLinkClosesConnectionsWhenItIsCut(t *testing.T) {
	_, l := startLink(t)
	c, err := net.Dial("tcp", l.Addr())
	must(t, err)
	defer c.Close()
	// An answer proves that the connection stands.
	request := kmsg.NewPtrApiVersionsRequest()
	_, err = c.Write(new(kmsg.RequestFormatter).AppendRequest(nil, request, 7))
	must(t, err)
	_, err = readFrame(c, nil, responseHead)
	must(t, err)
	l.Cut()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) || n > 0 {
		t.Errorf("read from a cut connection: %d, %v", n, err)
	}
}

func TestLinkSurvivesWhatIsNotKafka(t *testing.T) {
	_, l := startLink(t)
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00\x00", "\xff\xff\xff\xff"} {
		c, err := net.Dial("tcp", l.Addr())
		must(t, err)
		_, err = io.WriteString(c, garbage)
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		if _, err := io.ReadAll(c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("the connection with %q isn't closed: %v", garbage, err)
		}
		c.Close()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(l.Addr()))
	must(t, err)
	defer client.Close()
	must(t, client.Ping(t.Context()))
}

// moved is an address function that shows what it was asked.
func moved(host string, port int32) (string, int32, error) { return "via-" + host, port + 1, nil }

func TestRewriteReplacesTheAddressesInEachVersion(t *testing.T) {
	responses := []kmsg.Response{
		&kmsg.MetadataResponse{Brokers: []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "a", Port: 9}}},
		&kmsg.FindCoordinatorResponse{Host: "a", Port: 9, Coordinators: []kmsg.FindCoordinatorResponseCoordinator{{Host: "a", Port: 9}}},
		&kmsg.DescribeClusterResponse{Brokers: []kmsg.DescribeClusterResponseBroker{{Host: "a", Port: 9}}},
		&kmsg.ProduceResponse{Brokers: []kmsg.ProduceResponseBroker{{Host: "a", Port: 9}}},
		&kmsg.FetchResponse{Brokers: []kmsg.FetchResponseBroker{{Host: "a", Port: 9}}},
	}
	for _, r := range responses {
		for version := range r.MaxVersion() + 1 {
			asked := question{key: r.Key(), version: version}
			if !asked.namesBrokers() {
				continue
			}
			r.SetVersion(version)
			out, err := rewrite(asked, responseFrame(r), moved)
			if err != nil {
				t.Fatalf("%s version %d: %v", kmsg.NameForKey(r.Key()), version, err)
			}
			if !bytes.Contains(out, []byte("via-a")) {
				t.Errorf("%s version %d isn't rewritten", kmsg.NameForKey(r.Key()), version)
			}
			if size := int(binary.BigEndian.Uint32(out)); size != len(out)-4 {
				t.Errorf("%s version %d: the size says %d, not %d", kmsg.NameForKey(r.Key()), version, size, len(out)-4)
			}
		}
	}
}

// responseFrame is a response as it stands on the wire.
func responseFrame(r kmsg.Response) []byte {
	b := []byte{0, 0, 0, 0, 0, 0, 0, 7}
	if r.IsFlexible() {
		b = append(b, 0) // no tagged fields
	}
	b = r.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// What rewrite accepts, it accepts again, and then changes nothing but the
// addresses: with an address function that changes nothing it is stable.
func FuzzRewrite(f *testing.F) {
	same := func(host string, port int32) (string, int32, error) { return host, port, nil }
	for _, version := range []int16{0, 5, 9, 12} {
		r := &kmsg.MetadataResponse{Version: version, Brokers: []kmsg.MetadataResponseBroker{{NodeID: 1, Host: "a", Port: 9}}}
		f.Add(int16(kmsg.Metadata), version, responseFrame(r)[8:])
	}
	f.Add(int16(kmsg.Produce), int16(11), []byte{1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		asked := question{key: key, version: version}
		if version < 0 || !asked.namesBrokers() {
			return
		}
		frame := append([]byte{0, 0, 0, 0, 0, 0, 0, 7}, body...)
		once, err := rewrite(asked, frame, same)
		if err != nil {
			return
		}
		twice, err := rewrite(asked, once, same)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%v\n%x\n%x", err, once, twice)
		}
	})
}
