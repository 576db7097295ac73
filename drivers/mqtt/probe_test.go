package mqtt

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// probeOne probes the only server of a config.
func probeOne(t *testing.T, cfg Config) ServerProbe {
	t.Helper()
	began := time.Now()
	r := Probe(t.Context(), cfg)
	if r.Error != "" || len(r.Servers) != 1 {
		t.Fatalf("probe: %+v", r)
	}
	if r.OK() != (r.Servers[0].Error == "") {
		t.Errorf("OK is %v with the error %q", r.OK(), r.Servers[0].Error)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("it took %s", took)
	}
	return r.Servers[0]
}

func wantWarning(t *testing.T, p ServerProbe, part string) {
	t.Helper()
	if !slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, part) }) {
		t.Errorf("no warning with %q in %q", part, p.Warnings)
	}
}

func TestProbeLeavesARunningSourceAlone(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	sink := &testSink{hold: true}
	cfg := baseConfig(sink, "tcp://"+addr)
	cfg.Subscriptions = append(cfg.Subscriptions, Subscription{Filter: "$share/gws/line/#", QoS: 2, Class: "alarm"})
	src, _ := start(t, cfg)
	waitUp(t, src)
	if err := server.Publish("plant/a", []byte("retained"), true, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first", func() bool { return len(sink.taken()) == 1 })
	stop, sent := make(chan struct{}), make(chan int)
	go func() { // the plant goes on meanwhile
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			default:
				_ = server.Publish("line/a", []byte("x"), false, 2)
				time.Sleep(time.Millisecond)
			}
		}
	}()
	probing := cfg
	probing.Sink = nil
	p := probeOne(t, probing)
	close(stop)
	want := []FilterProbe{{"plant/#", "process", 1, 1}, {"$share/gws/line/#", "alarm", 2, 2}}
	if p.Error != "" || !p.Reachable || !p.Authorised || p.TLS != nil || !reflect.DeepEqual(p.Filters, want) {
		t.Errorf("probe: %+v", p)
	}
	eventually(t, "the probe left no session", func() bool { _, there := server.Clients.Get("gw-1" + probeSuffix); return !there })
	n := <-sent + 1
	sink.mu.Lock()
	sink.hold = false
	sink.mu.Unlock()
	sink.commit(len(sink.dones), nil)
	eventually(t, "all messages of the group", func() bool { return len(sink.taken()) == n })
	if st := src.Stats(); !st.Up || st.LastError != "" || len(sink.taken()) != n {
		t.Errorf("the source after it: %+v, %d of %d taken", st, len(sink.taken()), n)
	}
}

func TestProbeSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, denying := newMochi(t, &auth.Ledger{Auth: auth.AuthRules{{Username: "u", Password: "right", Allow: true}}}, nil)
	_, picky := newMochi(t, &auth.Ledger{Auth: auth.AuthRules{{Allow: true}}, ACL: auth.ACLRules{{Filters: auth.Filters{"plant/#": auth.Deny}}}}, nil)
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
		reach  bool
		auth   bool
	}{
		{"nobody listens", func(c *Config) { c.Servers = []string{"tcp://" + freeAddress(t)} }, "connection refused", false, false},
		{"a wrong password", func(c *Config) {
			c.Servers, c.Username, c.Password = []string{"tcp://" + denying}, word("u"), word("hunter2")
		}, "check username and password", true, false},
		{"a password that cannot be read", func(c *Config) {
			c.Username, c.Password = word("u"), func() (string, error) { return "", errSilent }
		}, "read the password", true, false},
		{"a filter that is refused", func(c *Config) { c.Servers = []string{"tcp://" + picky} }, `refuses the filter "plant/#"`, true, true},
		{"TLS where there is none", func(c *Config) { c.Servers = []string{"ssl://" + picky} }, "does it expect TLS or MQTT on another port", true, false},
		{"no broker", func(c *Config) { c.Servers = []string{"tcp://" + web.Listener.Addr().String()} }, "is this an MQTT broker?", true, false},
		{"no TLS files", func(c *Config) {
			c.Servers, c.TLS = []string{"ssl://" + picky}, func() (*tls.Config, error) { return nil, errSilent }
		}, "tls: ", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := baseConfig(nil, "tcp://"+denying)
			c.change(&cfg)
			p := probeOne(t, cfg)
			if !strings.Contains(p.Error, c.want) || p.Reachable != c.reach || p.Authorised != c.auth {
				t.Errorf("%+v, want the error %q", p, c.want)
			}
			if text, err := json.Marshal(p); err != nil || strings.Contains(string(text), "hunter2") {
				t.Errorf("%s, %v", text, err)
			}
		})
	}
	if r := Probe(t.Context(), Config{}); !strings.Contains(r.Error, "servers: is empty") || r.OK() {
		t.Errorf("an empty config: %+v", r)
	}
}

func TestProbeWarnsOfTLSThatHasNoEffect(t *testing.T) {
	t.Parallel()
	_, addr := newMochi(t, nil, nil)
	cfg := baseConfig(nil, "tcp://"+addr, "ssl://127.0.0.1:1")
	cfg.TLS = always(&tls.Config{})
	wantWarning(t, Probe(t.Context(), cfg).Servers[0], "tls has no effect on tcp://")
}

func TestProbeShowsCertificates(t *testing.T) {
	t.Parallel()
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	cert, roots := selfSigned(t, until)
	_, addr := newMochi(t, nil, func(id string) listeners.Listener {
		return listeners.NewTCP(listeners.Config{ID: id, Address: "127.0.0.1:0", TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}})
	})
	for _, c := range []struct {
		name   string
		config *tls.Config
		ok     bool
		want   string // error or warning
	}{
		{"trusted", &tls.Config{RootCAs: roots}, true, "certificate expires on " + until.UTC().Format(time.DateOnly)},
		{"not trusted", &tls.Config{}, false, "unknown authority"},
		{"not verified", &tls.Config{InsecureSkipVerify: true}, true, "insecure_skip_verify"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := baseConfig(nil, "ssl://"+addr)
			cfg.TLS = always(c.config)
			p := probeOne(t, cfg)
			if p.TLS == nil || p.TLS.OK != c.ok || p.TLS.Subject == "" || !p.TLS.Expires.Equal(until) || !p.Reachable || p.Authorised != c.ok {
				t.Fatalf("%+v, TLS %+v", p, p.TLS)
			}
			if c.ok {
				wantWarning(t, p, c.want)
			} else if !strings.Contains(p.Error, c.want) {
				t.Errorf("error %q", p.Error)
			}
		})
	}
}

// TestProbeReadsMosquitto talks to a broker by hand that grants less than is
// asked for, sends messages in between, and says of itself what Mosquitto says.
func TestProbeReadsMosquitto(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	asked := make(chan string, 10)
	go func() {
		c := broker.accept(false)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.suback = func(filter string) byte {
			asked <- filter
			text := map[string]string{sysVersion: "mosquitto version 2.0.11", sysStored: "51", sysDropped: "480"}[filter]
			c.behind.Go(func() { // retained, behind the SUBACK or before it
				if text != "" {
					c.reply(publishFrame(retain, 0, filter, text))
				} else {
					c.reply(publishFrame(qos2, 9, "plant/a", "x"))
					c.reply([]byte{0x62, 2, 0, 9})
					c.reply(publishFrame(qos1, 10, "plant/a", strings.Repeat("x", 100_000)))
				}
			})
			return 0
		}
	}()
	cfg := baseConfig(nil, broker.url())
	cfg.Subscriptions = append(cfg.Subscriptions, Subscription{Filter: "live/#", Class: "process"}, Subscription{Filter: "$share/g/line/#", QoS: 1, Class: "process"})
	p := probeOne(t, cfg)
	if p.Error != "" || p.Broker != "mosquitto version 2.0.11" {
		t.Errorf("%+v", p)
	}
	for _, part := range []string{"max_queued_messages 0", "dropped 480 messages since it started, and keeps 51", `grants QoS 0 for "plant/#", asked for was 1`, `"live/#" has qos 0`} {
		wantWarning(t, p, part)
	}
	close(asked)
	for _, want := range []string{"plant/#", "live/#", "$share/g-probe/line/#", sysVersion, sysStored, sysDropped} {
		if got := <-asked; got != want { // $share/g/line/# would take messages from a source that runs
			t.Errorf("asked for %q, want %q", got, want)
		}
	}
}

func TestProbeIsBounded(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	r := Probe(ctx, baseConfig(nil, broker.url())) // nobody answers CONNECT
	if len(r.Servers) != 1 || !r.Servers[0].Reachable || !strings.Contains(r.Servers[0].Error, "no answer in time") {
		t.Errorf("%+v", r)
	}
}

// FuzzVisit lets a broker answer a probe with anything: it neither hangs nor
// panics, and what it keeps is short and clean.
func FuzzVisit(f *testing.F) {
	hello := []byte{0x20, 2, 0, 0, 0x90, 3, 0, 1, 1, 0xb0, 2, 0, 2}
	f.Add(append(slices.Clone(hello), publishFrame(0, 0, sysVersion, "mosquitto version 2.0.11")...))
	f.Add(append(slices.Clone(hello), publishFrame(qos2, 3, sysVersion, strings.Repeat("x", 200))...))
	f.Add([]byte{0x20, 2, 0, 5})
	f.Add([]byte{0x20, 2, 0, 0, 0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a', 0, 1})
	f.Fuzz(func(t *testing.T, input []byte) {
		v := newVisit(&scriptConn{rest: input, piece: 7})
		p := ServerProbe{}
		if err := v.connect(baseConfig(nil)); err == nil {
			_ = p.look(v, []Subscription{{Filter: "plant/#", QoS: 1}})
		}
		for topic, text := range v.sys {
			if len(text) > maxBrokerTag || cleanTopic([]byte(text), maxBrokerTag) != text {
				t.Errorf("%q says %q", topic, text)
			}
		}
		if _, err := json.Marshal(p); err != nil {
			t.Error(err)
		}
	})
}
