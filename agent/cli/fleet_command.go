package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
	"sluice/agent/remote/trust"
)

// order is a command on its way: signed, published, and answered by those that it
// is for.
type order struct {
	doc    content
	cmd    *document.Command
	signer *signerFlags
	life   time.Duration
	wait   time.Duration
	id     string
}

func (c *call) orderFlags() *order {
	o := &order{signer: c.signerFlags()}
	c.flags.DurationVar(&o.life, "expires", 10*time.Minute, "how long it may be taken; an agent that is away longer never carries it out")
	c.flags.DurationVar(&o.wait, "wait", time.Minute, "how long to wait for answers")
	c.flags.StringVar(&o.id, "id", "", "its `id`, unlike that of any other command (default: made up)")
	return o
}

// fleetCommand signs a command, publishes it and shows the answers: exit status 3
// where one is not "done".
func fleetCommand(ctx context.Context, c *call) error {
	o := c.orderFlags()
	js := c.flags.Bool("json", false, "print the answers as JSON, one a line")
	if err := c.parseWords(); err != nil {
		return err
	}
	if len(c.rest) < 2 {
		return usageError{fmt.Errorf("%s: TARGET and KIND are needed (%s), and what the kind takes as KEY=VALUE", c.name, strings.Join(document.Kinds, ", "))}
	}
	if err := o.make(ctx, c, c.rest[0], c.rest[1], c.rest[2:]); err != nil {
		return err
	}
	f, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer f.client.Close()
	answers, r, err := f.give(ctx, c, o)
	if err != nil {
		return err
	}
	r.close()
	return c.showAnswers(answers, *js)
}

// make writes the document and signs it.
func (o *order) make(ctx context.Context, c *call, target, kind string, words []string) error {
	text, err := o.document(target, kind, words)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", c.name, err)}
	}
	if o.cmd, err = document.ParseCommand(text); err != nil {
		return usageError{fmt.Errorf("%s: %w", c.name, err)}
	}
	s, done, err := o.signer.open(ctx, c)
	defer done()
	if err != nil {
		return err
	}
	env := &trust.Envelope{Type: o.cmd.Type(), Payload: text}
	if err = env.Sign(s.key, s.sign); err != nil {
		return err
	}
	o.doc, err = readContent(env)
	return err
}

// document is the command as YAML. A value that is a number, true or false goes as
// one; all others are text.
func (o *order) document(target, kind string, words []string) ([]byte, error) {
	if o.id == "" {
		random := make([]byte, 4)
		_, _ = rand.Read(random) // it never fails
		o.id = kind + "-" + time.Now().UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(random)
	}
	now := time.Now().UTC()
	var b bytes.Buffer
	fmt.Fprintf(&b, "id: %s\ntarget: %s\nissued: %s\nexpires: %s\nkind: %s\n", tree.Plain(o.id), tree.Plain(target),
		now.Format(time.RFC3339Nano), now.Add(o.life).Format(time.RFC3339Nano), tree.Plain(kind))
	if len(words) > 0 {
		b.WriteString("args:\n")
	}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", w)
		}
		if first := value + " "; !json.Valid([]byte(value)) || !strings.ContainsAny(first[:1], "-0123456789tf") {
			value = tree.Plain(value)
		}
		fmt.Fprintf(&b, "  %s: %s\n", tree.Plain(key), value)
	}
	return b.Bytes(), nil
}

// answer is what an agent said to a command.
type answer struct {
	Agent string `json:"agent"`
	remote.CommandStatus
}

// noAnswer is the state of a command that an agent has said nothing of.
const noAnswer remote.CommandState = "no answer"

// give publishes a command and waits for the answers of the agents that it is for
// and that report. The reader goes on; the caller closes it.
func (f *fleet) give(ctx context.Context, c *call, o *order) ([]answer, *reader, error) {
	there, err := f.records(ctx, f.remote.ConfigTopic, nil)
	if err != nil {
		return nil, nil, err
	}
	f.follow(there)
	if _, err = verify(f.trust, o.doc); err != nil {
		return nil, nil, c.refused(err)
	}
	r, err := f.statuses(ctx)
	if err != nil {
		return nil, nil, err
	}
	agents, _ := agentsOf(r.latest)
	waited := map[string]answer{}
	for id, st := range agents {
		if o.cmd.Target.Matches(id, st.Labels) && !silent(st, time.Now()) {
			waited[id] = answer{id, remote.CommandStatus{ID: o.cmd.ID, Kind: o.cmd.Kind, State: noAnswer}}
		}
	}
	if len(waited) == 0 {
		fmt.Fprintf(c.Err, "no agent that reports is meant by %s; the command waits in the topic until it expires\n", o.cmd.Target)
	}
	record, err := f.publish(ctx, f.remote.CommandTopic, o.doc)
	if err != nil {
		r.close()
		return nil, nil, err
	}
	fmt.Fprintf(c.Err, "pushed %s (offset %d), for %d agents\n", o.doc.name(), record.Offset, len(waited))
	err = f.await(ctx, r, o, waited)
	if err != nil {
		r.close()
		return nil, nil, err
	}
	answers := []answer{}
	for _, id := range slices.Sorted(maps.Keys(waited)) {
		answers = append(answers, waited[id])
	}
	return answers, r, nil
}

// await reads statuses until all have answered or the time is over.
func (f *fleet) await(ctx context.Context, r *reader, o *order, waited map[string]answer) error {
	for end := time.Now().Add(o.wait); ; {
		open := 0
		for id := range waited {
			if st, ok := statusOf(id, r.latest[id]); ok {
				for _, cmd := range st.Commands {
					if cmd.ID == o.cmd.ID {
						waited[id] = answer{id, cmd}
					}
				}
			}
			if s := waited[id].State; s == noAnswer || s == remote.CommandRunning {
				open++
			}
		}
		if open == 0 || !time.Now().Before(end) {
			return nil
		}
		if _, err := r.next(ctx, min(pollEvery, time.Until(end))); err != nil {
			return err
		}
	}
}

// showAnswers prints them; it is an errFound when a command was not done.
func (c *call) showAnswers(answers []answer, js bool) error {
	var bad bool
	w := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
	if !js && len(answers) > 0 {
		fmt.Fprintln(w, "AGENT\tSTATE\tANSWER")
	}
	for _, a := range answers {
		bad = bad || a.State != remote.CommandDone
		if js {
			if err := json.NewEncoder(c.Out).Encode(a); err != nil {
				return err
			}
			continue
		}
		text := plainText(string(a.Result))
		if a.Reason != "" {
			text = strings.TrimSpace(plainText(string(a.Code)) + " " + plainText(a.Reason))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", plainText(a.Agent), plainText(string(a.State)), text)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if bad {
		return errFound
	}
	return nil
}

// errNoBundle: an agent did not send what it was asked for.
var errNoBundle = errors.New("the agent has sent no bundle")
