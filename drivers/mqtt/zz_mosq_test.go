package mqtt

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

func startMosq(t *testing.T, dir string, port int) *exec.Cmd {
	conf := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\npersistence true\npersistence_location %s/\nautosave_interval 1\nuser root\n", port, dir)
	os.WriteFile(filepath.Join(dir, "m.conf"), []byte(conf), 0o644)
	cmd := exec.Command("/usr/sbin/mosquitto", "-c", filepath.Join(dir, "m.conf"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestZZMosquitto(t *testing.T) {
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
	const n = 100000
	var last paho.Token
	for i := range n {
		last = pub.Publish(fmt.Sprintf("plant/%d", i%20), byte(1+i%2*0), false, fmt.Sprintf("%d %0190d", i, 0))
	}
	last.Wait()
	time.Sleep(500 * time.Millisecond)
	var ru0, ru1 syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru0)
	began := time.Now()
	src, stop = start(t, cfg)
	eventually(t, "drained", func() bool { return src.Stats().Taken["process"] == n })
	el := time.Since(began)
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru1)
	cpu := func(r syscall.Rusage) float64 { return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9 }
	t.Logf("%d in %s = %.0f/s, CPU %.3f s/100k", n, el, n/el.Seconds(), cpu(ru1)-cpu(ru0))
	// QoS 2 and cuts
	t.Logf("after drain: taken %d conns %d lasterr %q", len(sink.taken()), src.conns.Load(), src.Stats().LastError)
	t.Logf("later: taken %d order %d state %s", len(sink.taken()), src.ledger.order.len(), src.Stats().State)
	stop()
	{
		sx := &testSink{}
		cfg.Sink = sx
		s3, stop3 := start(t, cfg)
		waitUp(t, s3)
		time.Sleep(time.Second)
		t.Logf("fresh: %d, rej %v, %s", len(sx.taken()), s3.Stats().Rejected, s3.Stats().State)
		if len(sx.taken()) > 0 {
			t.Logf("first %.10s last %.10s", sx.taken()[0].Payload, sx.taken()[len(sx.taken())-1].Payload)
		}
		stop3()
	}
	sink2 := &testSink{}
	cfg.Sink = sink2
	src, stop = start(t, cfg)
	waitUp(t, src)
	var cuts atomic.Int32
	go func() {
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			src.ledger.mu.Lock()
			c := src.ledger.conn
			src.ledger.mu.Unlock()
			if c != nil {
				cuts.Add(1)
				c.fail(fmt.Errorf("cut"))
			}
		}
	}()
	for i := range 40000 {
		last = pub.Publish(fmt.Sprintf("plant/%d", i%20), byte(1+i%2), false, fmt.Sprintf("%d", i))
		if i%400 == 0 {
			last.Wait()
			time.Sleep(10 * time.Millisecond)
		}
	}
	last.Wait()
	eventually(t, "all", func() bool { return len(sink2.taken()) >= 40000 })
	time.Sleep(time.Second)
	seen := map[string]int{}
	dups, ord := 0, map[string]int{}
	bad := 0
	for _, e := range sink2.taken() {
		seen[string(e.Payload)]++
		if seen[string(e.Payload)] > 1 {
			dups++
		}
		var v int
		fmt.Sscan(string(e.Payload), &v)
		if v < ord[e.Subject] {
			bad++
		}
		ord[e.Subject] = v
	}
	t.Logf("stored %d distinct %d duplicates %d reordered %d cuts %d rejected %v", len(sink2.taken()), len(seen), dups, bad, cuts.Load(), src.Stats().Rejected)
}
