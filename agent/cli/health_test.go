package cli

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/agent/web"
)

func TestWellnessWaitsForAnUnbrokenRow(t *testing.T) {
	sick := errors.New("sick")
	for name, tc := range map[string]struct {
		w     wellness
		sick  func(time.Duration) bool
		why   error
		after time.Duration
	}{
		"asked once, well":               {wellness{}, func(time.Duration) bool { return false }, nil, 0},
		"asked once, sick":               {wellness{}, func(time.Duration) bool { return true }, sick, 0},
		"well from the start":            {wellness{30 * time.Second, 30 * time.Second}, func(time.Duration) bool { return false }, nil, 30 * time.Second},
		"comes up late":                  {wellness{30 * time.Second, 5 * time.Minute}, func(d time.Duration) bool { return d < time.Minute }, nil, 89 * time.Second},
		"a break starts the row anew":    {wellness{30 * time.Second, 5 * time.Minute}, func(d time.Duration) bool { return d == 29*time.Second }, nil, 59 * time.Second},
		"ends as soon as it is too late": {wellness{30 * time.Second, time.Minute}, func(d time.Duration) bool { return d%(10*time.Second) == 0 }, sick, 30 * time.Second},
		"a break at the end is too late": {wellness{30 * time.Second, 30 * time.Second}, func(d time.Duration) bool { return d == 20*time.Second }, sick, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				why, err := tc.w.wait(t.Context(), func(context.Context) error {
					time.Sleep(time.Nanosecond) // an answer takes time
					if tc.sick(time.Since(started).Truncate(time.Second)) {
						return sick
					}
					return nil
				})
				if err != nil || !errors.Is(why, tc.why) {
					t.Fatalf("why %v, err %v; want %v", why, err, tc.why)
				}
				if took := time.Since(started).Truncate(time.Second); took != tc.after {
					t.Fatalf("after %s, want %s", took, tc.after)
				}
			})
		})
	}
}

func TestAiling(t *testing.T) {
	up := func() *web.Status {
		return &web.Status{
			Sources: map[string]web.Source{"a": {Up: true}, "b": {}},
			Uplinks: map[string]web.Uplink{"central": {Up: true, Delivered: map[string]uint64{"process": 7}, Lag: map[string]uint64{"process": 3}}},
		}
	}
	for name, tc := range map[string]struct {
		change func(*web.Status)
		want   string // empty: well
	}{
		"works, one source of two is off":   {func(*web.Status) {}, ""},
		"nothing to deliver":                {func(s *web.Status) { s.Uplinks["central"] = web.Uplink{Up: true} }, ""},
		"no sources at all":                 {func(s *web.Status) { s.Sources = nil }, ""},
		"a stage that does not work":        {func(s *web.Status) { s.Unhealthy = []string{"buffer: full"} }, "buffer: full"},
		"uplink away":                       {func(s *web.Status) { s.Uplinks["central"] = web.Uplink{State: "no route"} }, "uplink central: no route"},
		"uplink that has delivered nothing": {func(s *web.Status) { s.Uplinks["central"] = web.Uplink{Up: true, Lag: map[string]uint64{"process": 3}} }, "none of 3"},
		"one that is closed beside one that works": {func(s *web.Status) {
			s.Uplinks["night"] = web.Uplink{State: "closed until 22:00", Closed: true, Lag: map[string]uint64{"process": 3}}
		}, ""},
		"one that is closed beside one that is away": {func(s *web.Status) {
			s.Uplinks["central"], s.Uplinks["night"] = web.Uplink{State: "no route"}, web.Uplink{State: "closed until 22:00", Closed: true}
		}, "uplink central: no route; uplink night: closed until 22:00"},
		"all that there is is closed": {func(s *web.Status) { s.Uplinks["central"] = web.Uplink{State: "closed until 22:00", Closed: true} }, "closed until 22:00"},
		"no source is up":             {func(s *web.Status) { s.Sources = map[string]web.Source{"a": {}} }, "no source"},
	} {
		t.Run(name, func(t *testing.T) {
			st := up()
			tc.change(st)
			err := ailing(st)
			if got := err == nil; got != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
		})
	}
}
