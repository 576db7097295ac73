package uplink

import (
	"context"
	"time"
)

// duty is what is asked of an uplink, and so how often its link is looked at when
// no traffic shows how it is.
type duty int32

const (
	sends     duty = iota // events go here
	returns               // they will, as soon as it is reachable, or has been for long enough
	standsBy              // they go elsewhere, and that works
	probeWait = 10 * time.Second
)

// probeEvery is by duty, while the link is up and while it is down. Standing by is
// cheap: each look costs a connection, perhaps over a link that is paid by byte.
var probeEvery = [...]struct{ up, down time.Duration }{
	sends:    {10 * time.Second, 3 * time.Second},
	returns:  {5 * time.Second, 3 * time.Second},
	standsBy: {5 * time.Minute, time.Minute},
}

// setDuty says what is asked of the uplink from now on.
func (k *Kafka) setDuty(d duty) {
	if duty(k.duty.Swap(int32(d))) != d {
		select {
		case k.stir <- struct{}{}:
		default:
		}
	}
}

// probe asks a broker for a sign of life at the start and whenever there was no
// traffic to show one.
func (k *Kafka) probe(ctx context.Context) {
	for ctx.Err() == nil {
		d := duty(k.duty.Load())
		least, wait := k.pauses(d)
		if time.Since(k.health.goodAt()) >= least && k.pace.sinceHeld() > heldLately {
			k.ping(ctx, d)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-k.stir:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// pauses returns how old a sign of life must be for another look, and how long to wait
// after that. One that sends nothing makes a connection for each look: while these
// are spread it looks no more often than they come, and once when that ends, before
// events go back.
func (k *Kafka) pauses(d duty) (least, wait time.Duration) {
	every := probeEvery[d].down
	if k.Stats().Up {
		every = probeEvery[d].up
		switch left := k.cfg.Spread.turnsFor(time.Now()); {
		case d != returns || left == 0:
		case left > spreadOver*3/2:
			every = spreadOver
		default:
			return spreadOver / 2, left + spreadGrace/3
		}
	}
	return every / 2, jitter(every)
}

// ping asks with the client in use, or with one of its own where nothing is sent.
func (k *Kafka) ping(ctx context.Context, d duty) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	client := k.link()
	if client == nil {
		if d == sends { // between two clients
			return
		}
		own, err := k.newClient()
		if err != nil {
			k.health.pinged(err)
			return
		}
		defer own.Close()
		client = own
	}
	k.health.pinged(client.Ping(ctx))
}
