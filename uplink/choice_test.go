package uplink

import (
	"strings"
	"testing"
	"time"
)

// TestChoice tells a story a second at a time: what is seen of two clusters ("u"
// up, "d" down, "a" up and acknowledging, "h" up and held), and which one must have the events
// then, counted from 0. A cluster takes over after 3 s, and gives back after 5 s.
func TestChoice(t *testing.T) {
	tests := []struct{ name, first, second, want string }{
		{"all is well", "aaaaaaaa", "uuuuuuuu", "00000000"},
		{"a short outage is waited out", "addaddadd", "uuuuuuuuu", "000000000"},
		{"the second takes over, and gives back when the first was up for long enough",
			"adddddduuuuuuaaa", "uuuuuaaaaaaaaauu", "0000111111110000"},
		{"a flap in between begins the wait anew", "addddduuuduuuuuuaa", "uuuuaaaaaaaaaaaaaa", "000011111111111000"},
		{"both down: the first goes on trying", "dddddddddd", "dddddddddd", "0000000000"},
		{"both down, the second comes first", "dddddddddd", "ddddduuuuu", "0000011111"},
		{"both down, the first comes first", "ddddduuuuu", "ddddddddud", "0000000000"},
		{"the second dies and the first is back: no need to wait", "addddduuuuuu", "uuuuaaadddd", "00001111000"},
		{"the first never was up", "dddduuuuuuuu", "uuuuuuuuuuuu", "001111111000"},
		{"back, and it acknowledges nothing: gone at once, and twice the wait",
			"addddduuuuuuuddduuuuuuuuuuuuaaa", "uuuuaaaaaaaaaaaaaaaaaaaaaaaaaaa", "0000111111100111111111111100000"},
		{"back, and it fails soon after: the usual patience, and twice the wait",
			"addddduuuuuuaaddddduuuuuuuuuuuuaaa", "uuuuaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "0000111111100000011111111111100000"},
		{"records would have to wait for a connection: it gets its place back later",
			"adddddhhhhhhhhhuuaa", "uuuuuaaaaaaaaaaauuu", "0000111111111110000"},
		{"the second dies meanwhile: no need to wait", "adddddhhhhh", "uuuuuaaaddd", "00001111000"},
		{"held without an end", "addddd" + strings.Repeat("h", 182), strings.Repeat("a", 188), "0000" + strings.Repeat("1", 182) + "00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			c := newChoice(2, 3*time.Second, 5*time.Second, now)
			acks := [2]time.Time{}
			var got strings.Builder
			for i := range tt.want {
				now = now.Add(time.Second)
				seen := make([]sight, 2)
				for k, story := range []string{tt.first, tt.second} {
					if story[i] == 'a' && c.active == k {
						acks[k] = now
					}
					seen[k] = sight{up: story[i] != 'd', held: story[i] == 'h', lastAck: acks[k]}
				}
				got.WriteByte('0' + byte(c.decide(now, seen)))
			}
			if got.String() != tt.want {
				t.Errorf("first  %s\nsecond %s\ngot    %s\nwant   %s", tt.first, tt.second, &got, tt.want)
			}
		})
	}
}

// TestChoiceOfThree has the second and then the third of a chain take over, and
// the best that is up get it back.
func TestChoiceOfThree(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := newChoice(3, 3*time.Second, 5*time.Second, now)
	run := func(seconds int, up string) int {
		at := -1
		for range seconds {
			now = now.Add(time.Second)
			seen := make([]sight, 3)
			for i := range seen {
				seen[i] = sight{up: up[i] == 'u', lastAck: now}
			}
			at = c.decide(now, seen)
		}
		return at
	}
	for i, step := range []struct {
		seconds int
		up      string
		want    int
	}{{2, "uuu", 0}, {5, "duu", 1}, {5, "ddu", 2}, {8, "duu", 1}, {4, "uuu", 1}, {4, "uuu", 0}, {5, "ddd", 0}, {1, "ddu", 2}} {
		if got := run(step.seconds, step.up); got != step.want {
			t.Fatalf("step %d: %d sends, want %d", i, got, step.want)
		}
	}
}
