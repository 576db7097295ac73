package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/agent/remote"
)

// fleetVerbs are the words that may stand after "fleet".
var fleetVerbs = map[string]func(context.Context, *call) error{"rollout": fleetRollout, "command": fleetCommand, "diagnostics": fleetDiagnostics}

const fleetUsage = "[AGENT…] [--watch] [--label K=V] [--state S] [--json] | rollout FILE | command TARGET KIND [KEY=VALUE…] | diagnostics AGENT"

const (
	watchEvery = 2 * time.Second
	pollEvery  = time.Second // how long a reading of statuses waits for more
)

// fleetCmd is "sluice fleet": the verb stands first, so that each has flags of its
// own; without one it is the table.
func fleetCmd(ctx context.Context, c *call) error {
	if len(c.rest) > 0 {
		if run, ok := fleetVerbs[c.rest[0]]; ok {
			c.name, c.rest = "fleet "+c.rest[0], c.rest[1:]
			return run(ctx, c)
		}
	}
	return fleetTable(ctx, c)
}

// view is which agents are shown, and how.
type view struct {
	agents []string          // empty: all
	labels map[string]string // that they must have
	state  string            // that their config must be in; empty: any
}

// labelFlags reads --label NAME=VALUE.
func labelFlags(words []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("--label %q is not NAME=VALUE", w)}
		}
		labels[name] = value
	}
	return labels, nil
}

func (v view) shows(st *remote.StatusRecord) bool {
	for name, value := range v.labels {
		if has, ok := st.Labels[name]; !ok || has != value {
			return false
		}
	}
	return (len(v.agents) == 0 || slices.Contains(v.agents, st.Agent)) && (v.state == "" || v.state == string(st.Config.State))
}

// fleetTable shows the agents by what they last said.
func fleetTable(ctx context.Context, c *call) error {
	watch := c.flags.Bool("watch", false, "show again every two seconds until Ctrl-C")
	js := c.flags.Bool("json", false, "print the newest record of each agent, one a line")
	var words list
	c.flags.Var(&words, "label", "only agents with this label, `NAME=VALUE`; given again, all of them count")
	state := c.flags.String("state", "", "only agents whose config is in this `state`: applied, applying, trial, rolled_back, rejected")
	if err := c.parseWords(); err != nil {
		return err
	}
	labels, err := labelFlags(words)
	if err != nil {
		return err
	}
	if *watch && *js {
		return usageError{errors.New("fleet: --watch and --json: one of them only")}
	}
	v := view{agents: c.rest, labels: labels, state: *state}
	f, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer f.client.Close()
	r, err := f.statuses(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	switch {
	case *watch:
		return c.watchFleet(ctx, r, v)
	case *js:
		return c.fleetLines(r, v)
	}
	agents, strange := agentsOf(r.latest)
	for _, key := range strange {
		fmt.Fprintf(c.Err, "the record of %s is no status\n", plainText(key))
	}
	return showFleet(c.Out, agents, v, time.Now())
}

// statuses reads the status topic to its end.
func (f *fleet) statuses(ctx context.Context) (*reader, error) {
	r, err := f.read(ctx, f.remote.StatusTopic, remote.IsStatusKey)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	if err = r.toEnd(limited); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// agentsOf reads the newest status of each agent; strange are keys of records that
// are none.
func agentsOf(latest map[string][]byte) (agents map[string]*remote.StatusRecord, strange []string) {
	agents = map[string]*remote.StatusRecord{}
	for _, id := range slices.Sorted(maps.Keys(latest)) {
		st, ok := statusOf(id, latest[id])
		switch {
		case ok:
			agents[id] = st
		case len(latest[id]) > 0: // else it was deleted
			strange = append(strange, id)
		}
	}
	return agents, strange
}

// statusOf reads a status. The key says whose it is, and not the content: whoever
// may write to the topic can put anything there.
func statusOf(id string, value []byte) (*remote.StatusRecord, bool) {
	var st remote.StatusRecord
	if len(value) == 0 || json.Unmarshal(value, &st) != nil {
		return nil, false
	}
	st.Agent = id
	return &st, true
}

func (c *call) fleetLines(r *reader, v view) error {
	agents, _ := agentsOf(r.latest)
	for id, st := range agents {
		if !v.shows(st) {
			delete(r.latest, id)
		}
	}
	return c.statusLines(r.latest)
}

// watchFleet shows the table again and again.
func (c *call) watchFleet(ctx context.Context, r *reader, v view) error {
	for {
		agents, _ := agentsOf(r.latest)
		fmt.Fprint(c.Out, "\x1b[H\x1b[2J")
		if err := showFleet(c.Out, agents, v, time.Now()); err != nil {
			return err
		}
		for end := time.Now().Add(watchEvery); time.Now().Before(end); {
			_, err := r.next(ctx, time.Until(end))
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				fmt.Fprintln(c.Out, err)
				sleepUntil(ctx, end)
			}
		}
	}
}

func sleepUntil(ctx context.Context, end time.Time) {
	t := time.NewTimer(time.Until(end))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// silent says whether an agent has not reported for longer than it should.
func silent(st *remote.StatusRecord, now time.Time) bool { return now.Sub(st.Time) > silentAfter }

// showFleet prints the table and a line that counts.
func showFleet(out io.Writer, agents map[string]*remote.StatusRecord, v view, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AGENT\tVERSION\tDESIRED\tRUNNING\tSTATE\tBACKLOG\tOLDEST\tLINKS\tSOURCES\tSEEN\tLABELS\tREASON")
	counts, shown := map[string]int{}, 0
	for _, id := range slices.Sorted(maps.Keys(agents)) {
		st := agents[id]
		if !v.shows(st) {
			continue
		}
		shown++
		counts[string(st.Config.State)]++
		seen := age(now, st.Time)
		if silent(st, now) {
			counts["silent"]++
			seen += " SILENT"
		}
		backlog, oldest := backlogOf(st)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plainText(id), plainText(st.Version), number(st.Config.Desired), number(st.Config.Running),
			plainText(string(st.Config.State)), backlog, oldest, links(st), sources(st), seen, plainText(labelText(st.Labels)), reasonOf(st))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	words := []string{}
	for _, state := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[state], plainText(state)))
	}
	_, err := fmt.Fprintf(out, "\n%d agents: %s\n", shown, strings.Join(words, ", "))
	return err
}

// backlogOf is what is stored and not delivered, and the age of the oldest of it.
func backlogOf(st *remote.StatusRecord) (events, oldest string) {
	var n uint64
	var seconds float64
	for _, c := range st.Buffer {
		n += c.Events
		seconds = max(seconds, c.OldestSeconds)
	}
	if n == 0 {
		return "0", "-"
	}
	return fmt.Sprint(n), time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// links are the uplinks by name, if one is down, else their number.
func links(st *remote.StatusRecord) string {
	var down []string
	for _, name := range slices.Sorted(maps.Keys(st.Uplinks)) {
		if !st.Uplinks[name].Up {
			down = append(down, name)
		}
	}
	return upOf(len(st.Uplinks), down)
}

func sources(st *remote.StatusRecord) string {
	var down []string
	for _, name := range slices.Sorted(maps.Keys(st.Sources)) {
		switch s := st.Sources[name]; {
		case !s.Up:
			down = append(down, name)
		case s.Silent > 0:
			down = append(down, fmt.Sprintf("%s(%d/%d)", name, s.Devices-s.Silent, s.Devices))
		}
	}
	return upOf(len(st.Sources), down)
}

// upOf says how many of them are up, and which are not.
func upOf(all int, down []string) string {
	s := fmt.Sprintf("%d/%d", all-len(down), all)
	if len(down) > 3 {
		down = append(down[:3], "…")
	}
	if len(down) > 0 {
		s += " -" + plainText(strings.Join(down, ","))
	}
	return s
}

func labelText(labels map[string]string) string {
	words := []string{}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		words = append(words, name+"="+labels[name])
	}
	return strings.Join(words, ",")
}

// reasonOf is why the config is as it is, shortened for a table.
func reasonOf(st *remote.StatusRecord) string {
	s := plainText(st.Config.Reason)
	if st.Config.Code != "" {
		s = plainText(string(st.Config.Code)) + ": " + s
	}
	if r := []rune(s); len(r) > 100 {
		s = string(r[:99]) + "…"
	}
	return s
}
