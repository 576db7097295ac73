package uplink

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestUpAndDown(t *testing.T) {
	const (
		metadata     = int16(kmsg.Metadata)
		apiVersions  = int16(kmsg.ApiVersions)
		authenticate = int16(kmsg.SASLAuthenticate)
	)
	broken := kgo.BrokerE2E{ReadErr: io.EOF}
	broker := kgo.BrokerMetadata{Host: "kafka", Port: 9092}
	tests := []struct {
		name    string
		steps   func(*health)
		stalled time.Duration
		up      bool
		says    string
	}{
		{"nothing happened yet", func(*health) {}, 0, false, ""},
		{"a round trip worked", func(h *health) { h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{}) }, 0, true, ""},
		{"only the versions were asked", func(h *health) { h.OnBrokerE2E(broker, apiVersions, kgo.BrokerE2E{}) }, 0, false, ""},
		{"an error just now", func(h *health) {
			h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{})
			h.OnBrokerE2E(broker, metadata, broken)
		}, 0, true, "closed the connection"},
		{"errors for a while", func(h *health) {
			h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{})
			h.OnBrokerE2E(broker, metadata, broken)
			time.Sleep(2 * badGrace)
			h.OnBrokerConnect(broker, 0, nil, errors.New("refused"))
		}, 0, false, "refused"},
		{"one of two brokers is away", func(h *health) {
			for range 10 {
				h.OnBrokerConnect(broker, 0, nil, errors.New("refused"))
				time.Sleep(badGrace)
				h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{})
			}
		}, 0, true, "refused"},
		{"back again", func(h *health) {
			h.OnBrokerE2E(broker, metadata, broken)
			time.Sleep(time.Hour)
			h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{})
		}, 0, true, "closed"},
		{"no acknowledgement for a while", func(h *health) {
			h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{})
		}, stallAfter + 1, false, ""},
		{"hung up during the login", func(h *health) {
			h.OnBrokerE2E(broker, authenticate, broken)
			h.OnBrokerConnect(broker, 0, nil, io.EOF)
		}, 0, false, "refused the login"},
		{"hung up without a login", func(h *health) { h.OnBrokerConnect(broker, 0, nil, io.EOF) }, 0, false, "closed the connection"},
		{"a complaint that passes", func(h *health) {
			h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{})
			h.complain(kerr.NotEnoughReplicas, "x")
		}, time.Second, true, ""},
		{"a complaint that lasts", func(h *health) {
			h.OnBrokerE2E(broker, metadata, kgo.BrokerE2E{})
			h.complain(kerr.NotEnoughReplicas, "x")
		}, hintAfter + 1, true, "too few brokers"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &health{}
				tt.steps(h)
				v := h.look(tt.stalled)
				if v.up != tt.up {
					t.Errorf("up %t", v.up)
				}
				if v.lastError == "" != (tt.says == "") || !strings.Contains(v.lastError, tt.says) {
					t.Errorf("says %q, want %q", v.lastError, tt.says)
				}
			})
		})
	}
}

func TestRepeatsAreQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		allowed := 0
		for range 600 {
			if l.allow("the same") {
				allowed++
			}
			time.Sleep(time.Second)
		}
		if allowed != 10 {
			t.Errorf("%d in ten minutes", allowed)
		}
		if !l.allow("another") {
			t.Error("a new text was held back")
		}
	})
}
