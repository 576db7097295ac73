package mqtt

import (
	"fmt"
	"net"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

func TestYYCuts(t *testing.T) {
	dir := t.TempDir()
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	m := startMosq(t, dir, port)
	defer func() { m.Process.Kill(); m.Wait() }()
	sink := &testSink{}
	cfg := baseConfig(sink, fmt.Sprintf("tcp://127.0.0.1:%d", port))
	cfg.Subscriptions[0].QoS = 2
	src, stop := start(t, cfg)
	waitUp(t, src)
	stop()
	pub := paho.NewClient(paho.NewClientOptions().AddBroker(cfg.Servers[0]).SetClientID("pub").SetAutoReconnect(false))
	if tok := pub.Connect(); tok.Wait() && tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	const n = 60000
	var last paho.Token
	for i := range n {
		last = pub.Publish(fmt.Sprintf("plant/%d", i%20), 1, false, fmt.Sprintf("%d %0190d", i, 0))
	}
	last.Wait()
	time.Sleep(500 * time.Millisecond)
	src, stop = start(t, cfg)
	go func() {
		for range 12 {
			time.Sleep(40 * time.Millisecond)
			src.ledger.mu.Lock()
			c := src.ledger.conn
			o := src.ledger.order.len()
			s := src.ledger.settled.len()
			src.ledger.mu.Unlock()
			t.Logf("cut at %d, order %d settled %d", src.Stats().Taken["process"], o, s)
			if c != nil {
				c.fail(fmt.Errorf("cut"))
			}
		}
	}()
	eventually(t, "drained", func() bool { return src.Stats().Taken["process"] >= n })
	time.Sleep(2 * time.Second)
	seen := map[string]int{}
	for _, e := range sink.taken() {
		seen[string(e.Payload)]++
	}
	t.Logf("stored %d distinct %d", len(sink.taken()), len(seen))
}
