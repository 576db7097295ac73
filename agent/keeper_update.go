package agent

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote"
	"sluice/agent/update"
)

// newUpdater makes what carries out the command update; nil where the config file
// has no section update, or where it does not work.
func (k *keeper) newUpdater() *update.Updater {
	c := k.file.Update
	if c == nil {
		return nil
	}
	dir := c.Dir
	if dir == "" {
		dir = filepath.Join(k.file.Agent.DataDir, "update")
	}
	u, err := update.New(update.Config{
		Dir: dir, Install: c.Install, MaxRate: int64(c.MaxRate), GiveUp: c.GiveUp, Version: k.sup.Version, Log: k.log,
		MayFetch: func() error { return k.mayFetch(c.Metered) },
		Kafka:    func() ([]kgo.Opt, error) { return KafkaOptions(k.file, k.file.Remote.Uplink) },
		Report:   k.reportUpdate,
	})
	if err != nil {
		k.log.Error("this machine cannot update itself", "error", err)
		return nil
	}
	return u
}

// mayFetch says why the link of remote may not be used for a bundle now.
func (k *keeper) mayFetch(metered bool) error {
	link, known := k.agent.Link(k.file.Remote.Uplink)
	switch {
	case !known: // another config has no such uplink
		return nil
	case !link.Open:
		return errors.New("the link is closed: " + link.Why)
	case link.Metered && !metered:
		return errors.New("the link is metered, or that is not known (update.metered)")
	}
	return nil
}

// runUpdater starts the updater, which goes on with what an earlier life began.
func (k *keeper) runUpdater(ctx context.Context) {
	if k.updater == nil {
		return
	}
	k.wg.Go(func() { _ = k.updater.Run(ctx) }) // it ends with ctx alone
}

// reportUpdate puts a phase on the status topic. The updater's goroutine calls it.
func (k *keeper) reportUpdate(p update.Phase) {
	k.do(k.life, func() {
		k.updating = &remote.UpdateStatus{Phase: p.Phase, Version: p.Version, Bytes: p.Bytes, Size: p.Size, Detail: oneLine(p.Detail), Time: p.Time}
		k.tell()
	})
}
