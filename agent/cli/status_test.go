package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sluice/agent/web"
)

// statusText runs "sluice status" against an agent that gives these answers in turn, and
// then fails. It returns the output and how many answers were asked for.
func statusText(t *testing.T, answers []web.Status, args ...string) (out string, asked int) {
	t.Helper()
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked > len(answers) {
			http.Error(w, "no more", http.StatusInternalServerError)
			return
		}
		if err := json.NewEncoder(w).Encode(answers[asked-1]); err != nil {
			t.Error(err)
		}
	}))
	var text, errs bytes.Buffer
	p := Process{Args: append([]string{"status", "--addr", strings.TrimPrefix(agent.URL, "http://")}, args...), Out: &text, Err: &errs,
		Env: func(string) (string, bool) { return "", false }}
	if code := Main(t.Context(), p); code != exitOK || errs.Len() > 0 {
		t.Errorf("exit status %d, errors %q", code, &errs)
	}
	agent.Close()
	return text.String(), asked
}

// row is the words of the line that begins with name.
func row(out, name string) []string {
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == name {
			return words
		}
	}
	return nil
}

func TestStatusOnceHasRates(t *testing.T) {
	t.Parallel()
	at := func(uptime float64, taken, delivered uint64) web.Status {
		return web.Status{Agent: "gw-1", UptimeSeconds: uptime,
			Sources: map[string]web.Source{"line": {Up: true, Taken: map[string]uint64{"process": taken, "alarm": 1}}},
			Uplinks: map[string]web.Uplink{"central": {Up: true, Delivered: map[string]uint64{"process": delivered}}}}
	}
	added := at(102, 300, 250)
	added.Sources["new"], added.Uplinks["new"] = web.Source{Taken: map[string]uint64{"process": 7}}, web.Uplink{}
	for name, tc := range map[string]struct {
		answers         []web.Status
		args            []string
		asked           int
		taken           string // the number that is shown
		source, central string // rates
	}{
		"the rates of the time between":     {[]web.Status{at(100, 100, 50), at(102, 300, 350)}, nil, 2, "301", "100/s", "150/s"},
		"nothing comes":                     {[]web.Status{at(100, 100, 50), at(101, 100, 50)}, nil, 2, "101", "0/s", "0/s"},
		"no second answer":                  {[]web.Status{at(100, 100, 50)}, nil, 2, "101", "-", "-"},
		"the agent has restarted":           {[]web.Status{at(100, 100, 50), at(1, 200, 90)}, nil, 2, "201", "-", "-"},
		"another source begins":             {[]web.Status{at(100, 100, 50), added}, nil, 2, "301", "100/s", "100/s"},
		"JSON is the answer to one request": {[]web.Status{at(100, 100, 50)}, []string{"--json"}, 1, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, asked := statusText(t, tc.answers, tc.args...)
			if asked != tc.asked {
				t.Errorf("asked %d times, want %d", asked, tc.asked)
			}
			if tc.taken == "" {
				if !json.Valid([]byte(out)) {
					t.Errorf("no JSON: %s", out)
				}
				return
			}
			source, central := row(out, "line"), row(out, "central")
			if len(source) < 4 || source[2] != tc.taken || source[3] != tc.source || len(central) < 4 || central[3] != tc.central {
				t.Errorf("want %s, %s, %s:\n%s", tc.taken, tc.source, tc.central, out)
			}
			if added := row(out, "new"); added != nil && added[3] != "-" {
				t.Errorf("a rate of what was not there before: %q", added)
			}
		})
	}
}

func TestStatusShowsTheLastErrorsOfWhatIsUp(t *testing.T) {
	t.Parallel()
	st := web.Status{Agent: "gw-1", UptimeSeconds: 9000,
		Sources: map[string]web.Source{
			"line": {Up: true, LastError: "connection refused", ErrorAge: 7200.4},
			"bus": {Up: true, LastError: "device m2: timeout", ErrorAge: 3, Devices: map[string]web.Device{
				"m1": {Up: true, LastError: "exception 2\r\n\x1b[2J", ErrorAge: 61}, "m2": {LastError: "timeout", ErrorAge: 3}, "m3": {Up: true}}},
			"quiet": {Up: true},
		},
		Uplinks: map[string]web.Uplink{"central": {Up: true, LastError: "reset by peer " + strings.Repeat("x", 500)}, "dr": {Up: true}}}
	out, _ := statusText(t, []web.Status{st})
	_, list, _ := strings.Cut(out, "LAST ERROR OF")
	lines := strings.Split(strings.TrimSpace(list), "\n")
	for i, want := range []string{"AGO", "device bus/m1 1m1s exception 2???[2J", "device bus/m2 3s timeout", "source line 2h0m0s connection refused", "uplink central - reset by peer xxx"} {
		if i >= len(lines) || !strings.HasPrefix(strings.Join(strings.Fields(lines[i]), " "), want) {
			t.Errorf("line %d is not %q:\n%s", i, want, out)
		}
	}
	if len(lines) != 5 || len([]rune(lines[4])) > troubleLength+40 {
		t.Errorf("%d lines:\n%s", len(lines), out)
	}
	if out, _ = statusText(t, []web.Status{{Agent: "gw-1"}}); strings.Contains(out, "LAST ERROR") {
		t.Errorf("no error, and a list:\n%s", out)
	}
}

func TestStatusShowsTheLatestOfManyErrors(t *testing.T) {
	t.Parallel()
	st := web.Status{Sources: map[string]web.Source{}}
	for i := range 25 { // the later half of the names has the later errors
		st.Sources[fmt.Sprintf("s%02d", i)] = web.Source{LastError: "timeout", ErrorAge: float64(1000 - i)}
	}
	out, _ := statusText(t, []web.Status{st})
	_, list, _ := strings.Cut(out, "LAST ERROR OF")
	lines := strings.Split(strings.TrimSpace(list), "\n")
	if len(lines) != 1+shownTroubles+1 || !strings.HasPrefix(lines[1], "source s15 ") || !strings.HasPrefix(lines[10], "source s24 ") || lines[11] != "and 15 more, older" {
		t.Errorf("list:\n%s", list)
	}
}
