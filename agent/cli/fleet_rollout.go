package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
	"sluice/agent/remote/trust"
)

// rollout brings a config to more and more agents and stops by itself when it
// does them no good.
type rollout struct {
	*call
	fleet  *fleet
	signer *signer
	base   document.Target // without the canary
	body   *tree.Node      // config or patch, under its key
	life   time.Duration
	steps  []stage
	wait   time.Duration
	settle time.Duration
	most   int // failures that are borne

	there map[string][]byte // of the config topic, when the rollout began
}

// stage is one step of a rollout.
type stage struct {
	target  document.Target
	percent int      // of agents; 100 of a target that is no canary
	signed  *content // what is published; nil: it is made and signed when it is its turn
}

func (s stage) String() string {
	if s.target.Canary {
		return fmt.Sprintf("%d %% of %s", s.percent, strings.TrimSuffix(s.target.String(), "/canary"))
	}
	return "promotion to " + s.target.String()
}

const defaultSteps = "1,10,50,100"

// fleetRollout publishes a config to more and more agents: exit status 3 when it
// was stopped. Started again it goes on where it was.
func fleetRollout(ctx context.Context, c *call) error {
	r := &rollout{call: c}
	from := c.signerFlags()
	steps := c.flags.String("steps", defaultSteps, "`percentages` of the agents, in order")
	target := c.flags.String("target", "", "of a plain config: `target` that it is for, such as all or label:site=plant-7")
	only := c.flags.Bool("no-promote", false, "leave it a canary at the end; without this the last step publishes it under the target itself")
	c.flags.DurationVar(&r.life, "expires", 720*time.Hour, "how long the documents may be adopted")
	c.flags.DurationVar(&r.wait, "wait", 15*time.Minute, "how long the agents of a step may take")
	c.flags.DurationVar(&r.settle, "settle", 90*time.Second, "how long all agents of a step must have been well before the next")
	c.flags.IntVar(&r.most, "max-failed", 0, "agents that may fail before the rollout stops")
	if err := c.parseWords(); err != nil {
		return err
	}
	if len(c.rest) == 0 {
		return usageError{fmt.Errorf("%s: FILE is missing: a config or its document, or the signed documents of all steps in order", c.name)}
	}
	signed, err := r.read(c.rest, *target, *steps, *only)
	if err != nil {
		return err
	}
	if !signed {
		var done func()
		r.signer, done, err = from.open(ctx, c)
		defer done()
		if err != nil {
			return err
		}
	}
	if r.fleet, err = c.openFleet(ctx); err != nil {
		return err
	}
	defer r.fleet.client.Close()
	return r.run(ctx)
}

// read reads the files and makes the steps. signed says that they are signed
// already.
func (r *rollout) read(files []string, target, steps string, only bool) (signed bool, err error) {
	for _, file := range files {
		env, err := readUnsigned(file, wrap{target: target, version: 1, life: r.life, percent: -1})
		if err != nil {
			return false, err
		}
		doc, err := readContent(env)
		if err == nil && doc.config == nil {
			err = errors.New("is no document with a config")
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", file, err)
		}
		if len(env.Signatures) == 0 {
			if len(files) > 1 {
				return false, usageError{fmt.Errorf("%s: one FILE, or several that are signed", r.name)}
			}
			return false, r.plan(doc, steps, only)
		}
		r.steps = append(r.steps, stage{target: doc.config.Target, percent: doc.config.Percent, signed: &doc})
	}
	r.base = r.steps[0].target
	r.base.Canary = false
	for i, s := range r.steps {
		if s.target.Canary = false; s.target != r.base {
			return false, usageError{fmt.Errorf("%s: %s is for %s, %s for %s", r.name, files[0], r.base, files[i], s.target)}
		}
	}
	return true, nil
}

// plan makes the steps of a document that is not signed.
func (r *rollout) plan(doc content, steps string, only bool) error {
	if err := r.worthy(doc, ""); err != nil {
		return err
	}
	root, err := tree.Parse(doc.env.Payload)
	if err != nil {
		return err
	}
	for _, key := range []string{"config", "patch"} {
		if n := root.Get(key); n != nil {
			r.body = &tree.Node{Kind: tree.Mapping, Entries: []tree.Entry{{Key: key, Value: n}}}
		}
	}
	r.base = doc.config.Target
	r.base.Canary = false
	last := -1
	for _, word := range strings.Split(steps, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n <= last || n > 100 {
			return usageError{fmt.Errorf("%s: --steps %s (rising numbers from 0 to 100, separated by commas)", r.name, steps)}
		}
		last = n
		t := r.base
		t.Canary = true
		r.steps = append(r.steps, stage{target: t, percent: n})
	}
	if last == 100 && !only {
		r.steps = append(r.steps, stage{target: r.base, percent: 100})
	}
	return nil
}

// run takes the steps, one after the other.
func (r *rollout) run(ctx context.Context) (err error) {
	if r.there, err = r.fleet.records(ctx, r.fleet.remote.ConfigTopic, nil); err != nil {
		return err
	}
	r.fleet.follow(r.there)
	if n := r.fleet.trust.Threshold; r.signer != nil && n > 1 {
		return fmt.Errorf("%d different keys must sign each step: sign them with sluice config sign, one document for each percent, and give them all to fleet rollout", n)
	}
	reader, err := r.fleet.statuses(ctx)
	if err != nil {
		return err
	}
	defer reader.close()
	reached := r.reached()
	for i := range r.steps {
		s := &r.steps[i]
		if i < reached {
			fmt.Fprintf(r.Err, "%s: done before\n", s)
			continue
		}
		w := newWard(reader.latest, s.target, s.percent)
		if i > reached {
			if err := r.push(ctx, s); err != nil {
				return err
			}
		}
		w.version, w.digest = s.signed.config.Version, trust.Digest(s.signed.env.Payload)
		if err := r.watch(ctx, reader, s, w); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(r.Out, "done: %s, version %d\n", r.steps[len(r.steps)-1], r.steps[len(r.steps)-1].signed.config.Version)
	return err
}

// reached is the furthest step that is in the topic; -1: none is. Not all agents may
// have it.
func (r *rollout) reached() int {
	for i := len(r.steps) - 1; i >= 0; i-- {
		if doc, found := r.found(&r.steps[i]); found {
			r.steps[i].signed = doc
			return i
		}
	}
	return -1
}

// found is the document in the topic that is this step, as far as content goes, and
// if it is the one that counts there.
func (r *rollout) found(s *stage) (*content, bool) {
	d, err := trustedConfig(r.fleet.trust, r.there[s.target.String()])
	if err != nil || d.Percent != s.percent || d.Epoch < r.fleet.trust.Epoch {
		return nil, false
	}
	stable, err := trustedConfig(r.fleet.trust, r.there[r.base.String()])
	if s.target.Canary && err == nil && !document.Newer(d.Epoch, d.Version, stable.Epoch, stable.Version) {
		return nil, false
	}
	env, err := trust.Open(r.there[s.target.String()])
	if err != nil {
		return nil, false
	}
	doc, err := readContent(env)
	if err != nil || s.signed != nil {
		return &doc, err == nil && bytes.Equal(env.Payload, s.signed.env.Payload)
	}
	root, err := tree.Parse(env.Payload)
	want := r.body.Entries[0]
	return &doc, err == nil && tree.Equal(root.Get(want.Key), want.Value)
}

// push signs a step, if it is not signed, and publishes it.
func (r *rollout) push(ctx context.Context, s *stage) error {
	if s.signed == nil {
		if err := r.sign(s); err != nil {
			return err
		}
	}
	_, err := verify(r.fleet.trust, *s.signed)
	if err == nil {
		err = expired(*s.signed, time.Now())
	}
	if err == nil {
		err = r.newer(r.fleet.trust, *s.signed, r.there[s.signed.key])
	}
	if err != nil {
		return r.refused(err)
	}
	record, err := r.fleet.publish(ctx, r.fleet.remote.ConfigTopic, *s.signed)
	if err != nil {
		return err
	}
	r.there[s.signed.key] = s.signed.env.Encode()
	fmt.Fprintf(r.Err, "%s: pushed %s (offset %d)\n", s, s.signed.name(), record.Offset)
	return nil
}

// sign makes the document of a step, with a version above all of its target.
func (r *rollout) sign(s *stage) error {
	epoch, version := r.fleet.trust.Epoch, uint64(0)
	for _, canary := range []bool{false, true} {
		t := r.base
		t.Canary = canary
		d, err := trustedConfig(r.fleet.trust, r.there[t.String()])
		switch {
		case err != nil: // nothing that agents believe
		case d.Epoch > epoch:
			epoch, version = d.Epoch, d.Version
		case d.Epoch == epoch:
			version = max(version, d.Version)
		}
	}
	now := time.Now().UTC().Truncate(time.Second)
	var b bytes.Buffer
	fmt.Fprintf(&b, "target: %s\nepoch: %d\nversion: %d\nissued: %s\nexpires: %s\n", tree.Plain(s.target.String()), epoch, version+1, now.Format(time.RFC3339), now.Add(r.life).Format(time.RFC3339))
	if s.target.Canary {
		fmt.Fprintf(&b, "percent: %d\n", s.percent)
	}
	b.Write(r.body.Encode())
	env := &trust.Envelope{Type: trust.TypeConfig, Payload: b.Bytes()}
	doc, err := readContent(env)
	if err == nil {
		err = env.Sign(r.signer.key, r.signer.sign)
	}
	s.signed = &doc
	return err
}

// watch waits until all agents of a step have it and are well. It is an errFound
// when the rollout has to stop.
func (r *rollout) watch(ctx context.Context, reader *reader, s *stage, w *ward) error {
	end, said, since := time.Now().Add(r.wait), "", time.Time{}
	for {
		now := time.Now()
		sum := w.look(reader.latest, now)
		if text := sum.String(); text != said {
			said = text
			fmt.Fprintf(r.Err, "%s: %s\n", s, text)
		}
		switch {
		case len(sum.failed) > r.most:
			return r.stopped(s, "agents failed", sum.failed)
		case len(sum.open) > 0 && now.After(end):
			return r.stopped(s, fmt.Sprintf("agents are not well after %s", r.wait), sum.open)
		case len(sum.open) > 0:
			since = time.Time{}
		case since.IsZero():
			since = now
		}
		if !since.IsZero() && (sum.well == 0 || now.Sub(since) >= r.settle) {
			return nil
		}
		if _, err := reader.next(ctx, pollEvery); err != nil {
			return r.interrupted(ctx, s, err)
		}
	}
}

func (r *rollout) interrupted(ctx context.Context, s *stage, err error) error {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return fmt.Errorf("at %s: %w; the same command goes on from there", s, err)
}

// stopped says why the rollout ends here, and what can be done.
func (r *rollout) stopped(s *stage, why string, agents []verdict) error {
	fmt.Fprintf(r.Err, "stopped at %s: %s\n", s, why)
	for i, v := range agents {
		if i == 20 {
			fmt.Fprintf(r.Err, "  and %d more\n", len(agents)-i)
			break
		}
		fmt.Fprintf(r.Err, "  %s: %s\n", plainText(v.agent), plainText(v.why))
	}
	fmt.Fprintf(r.Err, "no further agent gets it. Agents that run it keep it; \"config: {}\" under %s with a higher version takes it back. The same command tries again.\n", s.target)
	return errFound
}
