package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/uplink"
	"sluice/uplink/channel"
)

// link is the channel to the topics as one config has it.
type link struct {
	key    string
	cancel context.CancelFunc
	out    chan letter // for the status topic
	ch     *channel.Channel
}

// letter is a status record on its way.
type letter struct {
	number uint64
	value  []byte
}

// outLimit is how many records may wait for the link; the oldest are given up.
const outLimit = 32

// linkKey changes when the channel has to be made anew.
func linkKey(cfg *config.Config) string {
	r := *cfg.Remote
	return fmt.Sprint(cfg.Digest("uplinks."+r.Uplink), r.Uplink, r.ConfigTopic, r.StatusTopic, r.CommandTopic, cfg.Agent.ID, cfg.Agent.Labels)
}

// relink makes the channel that the running config asks for, if it is another
// one; with again, in any case, so that the topic is read from its start. After an
// error, which is logged, there is none, and it is tried again.
func (k *keeper) relink(ctx context.Context, again bool) error {
	cfg := k.agent.parts().cfg
	key := linkKey(cfg)
	if k.link != nil && k.link.key == key && !again {
		return nil
	}
	var waiting chan letter
	if k.link != nil {
		k.unlink()
		waiting = k.link.out
	}
	k.link, k.pass = nil, pass{seen: map[string]bool{}}
	l, err := k.openLink(cfg)
	if err != nil {
		k.log.Error("the topics of remote config cannot be reached", "error", err)
		k.told.outline.told = "" // what waited is lost
		k.later()
		return err
	}
	l.inherit(waiting)
	var own context.Context
	own, l.cancel = context.WithCancel(ctx)
	l.key, k.link = key, l
	k.wg.Go(func() {
		if err := l.ch.Run(own, courier{k, l}); err != nil && own.Err() == nil {
			k.log.Error("the channel to the topics ended", "error", err)
		}
	})
	k.wg.Go(func() { l.send(own, k, cfg.Agent.ID) })
	return nil
}

func (k *keeper) openLink(cfg *config.Config) (*link, error) {
	opts, err := kafkaOptions(cfg, cfg.Remote.Uplink, &k.agent.spreads)
	if err != nil {
		return nil, err
	}
	ch, err := channel.New(channel.Config{Client: opts, Spread: true, Via: k.byUplink(cfg.Remote.Uplink), ConfigTopic: cfg.Remote.ConfigTopic, CommandTopic: cfg.Remote.CommandTopic, StatusTopic: cfg.Remote.StatusTopic,
		Wanted: func(key string) bool { return remote.Wanted(key, cfg.Agent.ID, cfg.Agent.Labels) }, Log: k.log.With("stage", "remote")})
	return &link{ch: ch, out: make(chan letter, outLimit)}, err
}

// byUplink sends requests over the connections of an uplink, while it runs and sends.
func (k *keeper) byUplink(name string) channel.Via {
	return func(ctx context.Context, broker int32, req kmsg.Request) (kmsg.Response, error) {
		legs := k.agent.parts().legsOf(name)
		if len(legs) == 0 {
			return nil, uplink.ErrNoClient
		}
		return legs[0].kafka.Request(ctx, broker, req)
	}
}

// unlink ends the channel; run waits for it at its end.
func (k *keeper) unlink() {
	if k.link != nil {
		k.link.cancel()
	}
}

// inherit takes over what waited for another link, whose sender may take one more.
func (l *link) inherit(waiting chan letter) {
	for {
		select {
		case x := <-waiting:
			l.out <- x
		default:
			return
		}
	}
}

// send writes status records one after the other.
func (l *link) send(ctx context.Context, k *keeper, id string) {
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case x := <-l.out:
			err := l.ch.Publish(ctx, id, x.value)
			switch {
			case err == nil:
				said = ""
				k.do(ctx, func() { k.acknowledged(x.number) })
			case ctx.Err() != nil:
				k.do(k.life, func() { k.unsaid(x.number) })
			case !errors.Is(err, channel.ErrReplaced) && err.Error() != said:
				said = err.Error()
				k.log.Warn("the status cannot be published", "error", err)
			}
		}
	}
}

// publishTo writes another record to the status topic. Any goroutine may call it;
// it blocks until the record is there.
func (k *keeper) publishTo(ctx context.Context, key string, value []byte) error {
	got := make(chan *link, 1)
	if !k.do(ctx, func() { got <- k.link }) {
		return ctx.Err()
	}
	select {
	case l := <-got:
		if l == nil {
			return errors.New("the status topic cannot be reached")
		}
		return l.ch.Publish(ctx, key, value)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// courier hands to the keeper what a channel reads. One whose channel was replaced
// is not listened to.
type courier struct {
	keeper *keeper
	link   *link
}

var _ channel.Handler = courier{}

func (c courier) do(ctx context.Context, f func(*keeper)) {
	c.keeper.do(ctx, func() {
		if c.keeper.link == c.link {
			f(c.keeper)
		}
	})
}

// Config implements channel.Handler.
func (c courier) Config(ctx context.Context, r channel.Record) {
	c.do(ctx, func(k *keeper) { k.receive(r) })
}

// CaughtUp implements channel.Handler.
func (c courier) CaughtUp(ctx context.Context, t channel.TopicState) {
	c.do(ctx, func(k *keeper) { k.caughtUp(ctx, t) })
}

// Command implements channel.Handler.
func (c courier) Command(ctx context.Context, r channel.Record) {
	c.do(ctx, func(k *keeper) { k.command(k.life, r) })
}

// firstReport spreads the minutes of a fleet that was started together.
func firstReport(period time.Duration) time.Duration { return rand.N(period) }

// oddities says what is wrong with the topic, as it is and by what is remembered.
func (k *keeper) oddities(t channel.TopicState) *verdict {
	name := k.agent.parts().cfg.Remote.ConfigTopic
	say := func(v verdict, format string, args ...any) *verdict {
		v.reason = oneLine(fmt.Sprintf("topic %s ", name) + fmt.Sprintf(format, args...))
		return &v
	}
	switch {
	case t.Unreachable != "":
		return say(verdict{code: remote.TopicAway}, "cannot be read: %s", t.Unreachable)
	case t.Policy != "" && !strings.Contains(t.Policy, "compact"):
		return say(verdict{code: remote.TopicPolicy}, "has cleanup.policy=%s: configs get lost in it (kafka-configs --alter --add-config cleanup.policy=compact); what runs goes on", t.Policy)
	case k.anew != "" && !k.pass.seen[k.by.Target]:
		return say(verdict{code: remote.TopicNew}, "%s; what runs goes on", k.anew)
	case t.Emptied:
		return say(verdict{code: remote.TopicEmpty}, "has lost records that compaction does not take; what runs goes on")
	case k.by.Target != "" && !k.pass.seen[k.by.Target]:
		return say(verdict{code: remote.TopicEmpty}, "holds no record for %s any more; what runs goes on (publish it again)", k.by.Target)
	}
	return nil
}

// oneLine keeps a reason short and in one line.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if r := []rune(s); len(r) > 500 {
		return string(r[:497]) + "..."
	}
	return s
}
