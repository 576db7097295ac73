package buffer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Repairer is a data directory that no agent runs on, open for being mended. Its
// methods are for one goroutine.
type Repairer struct {
	Offline
}

// OpenRepair opens dir. Its errors are those of OpenOffline; nobody else can use
// the directory until Close.
func OpenRepair(dir string) (*Repairer, error) {
	o, err := openOffline(dir, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	return &Repairer{*o}, nil
}

// RepairAction is a damaged file and what became of it, or would.
type RepairAction struct {
	File  string   `json:"file"`            // below the data directory
	What  string   `json:"what"`            // what is wrong with it
	Saved uint64   `json:"saved"`           // events
	Lost  []string `json:"lost,omitempty"`  // "process 100-199"; a gap record will stand for each
	Aside string   `json:"aside,omitempty"` // where the damaged file lies now
}

// Repair does what a start does, and more: each file with damage is made anew of
// the blocks that are whole in it, and set aside. Nothing is changed with dryRun.
// progress, which may be nil, is called after each file. When ctx ends it returns
// what was done so far with ctx's error; a file is mended or not.
func (r *Repairer) Repair(ctx context.Context, dryRun bool, progress func(done, all int)) (actions []RepairAction, err error) {
	err = r.eachSegment(ctx, progress, func(class string, segs []*segment, i int) error {
		s := segs[i]
		findings, _ := r.verifySegment(s)
		if len(findings) == 0 {
			return nil
		}
		if i := slices.IndexFunc(findings, func(f Finding) bool { return f.newer }); i >= 0 {
			return fmt.Errorf("%s is left as it is: %s", findings[i].File, findings[i].What)
		}
		a := RepairAction{File: findings[0].File, What: findings[0].What}
		if more := len(findings) - 1; more > 0 {
			a.What += fmt.Sprintf(" (and %d more)", more)
		}
		err := r.repair(class, s, nextFirst(segs, i), dryRun, &a)
		if err == nil {
			actions = append(actions, a)
		}
		return err
	})
	return actions, err
}

// repair mends s; end is the first number of the file that follows.
func (r *Repairer) repair(class string, s *segment, end uint64, dryRun bool, a *RepairAction) error {
	var whole []span
	err := s.wholeBlocks(class, end, r.ours, func(r run) error {
		whole = append(whole, span{r.first, r.last()})
		a.Saved += uint64(len(r.events))
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", a.File, err)
	}
	last := end - 1
	if end == ^uint64(0) { // nobody knows how far the newest one went but itself
		last = max(s.tally.last, s.about.First)
		if n := len(whole); n > 0 {
			last = max(last, whole[n-1].last)
		}
	}
	for _, m := range subtract(subtract([]span{{s.about.First, last}}, whole), s.skips) {
		a.Lost = append(a.Lost, fmt.Sprintf("%s %d-%d", class, m.first, m.last))
	}
	if dryRun {
		return nil
	}
	if end == ^uint64(0) {
		if err := r.doubtNewest(class); err != nil {
			return fmt.Errorf("%s is left to the next start of the agent, which mends it, too: %w", a.File, err)
		}
	}
	if _, err = s.rescue(class, end, r.ours); err != nil {
		return fmt.Errorf("%s: %w", a.File, err)
	}
	if err = s.setAside(); err != nil {
		return fmt.Errorf("set %s aside: %w", a.File, err)
	}
	a.Aside, _ = filepath.Rel(r.dir, s.aside)
	return syncDir(filepath.Dir(s.path))
}

// ours accepts every incarnation where the state file does not say.
func (r *Repairer) ours(incarnation string) bool {
	return r.state.Incarnation == "" || incarnation == r.state.Incarnation || slices.Contains(r.state.Former, incarnation)
}

// doubtNewest has the next start take all numbers that were set aside as used:
// the newest file no longer tells which ones were.
func (r *Repairer) doubtNewest(class string) error {
	file, value, _, err := openSlots(filepath.Join(r.dir, stateName))
	if err != nil {
		return err
	}
	defer file.file.Close()
	st, err := parseState(value)
	if err == nil && st.Incarnation == "" {
		err = errors.New("there is no state file")
	}
	if err != nil {
		return err
	}
	c := st.Classes[class]
	c.Newest = ^uint64(0)
	st.Classes[class] = c
	js, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return file.save(js)
}

// CompactResult is what Compact gained.
type CompactResult struct {
	Before int64 `json:"before"` // bytes of all segments
	After  int64 `json:"after"`
	Files  int   `json:"files"` // made anew
}

// Compact makes segments anew that would be a tenth smaller with larger blocks.
// Damaged ones are left alone: see Repair. progress and ctx are as with Repair.
func (r *Repairer) Compact(ctx context.Context, progress func(done, all int)) (sum CompactResult, err error) {
	err = r.eachSegment(ctx, progress, func(_ string, segs []*segment, i int) error {
		s := segs[i]
		size := fileSize(s.path)
		sum.Before += size
		gained, err := r.compact(ctx, s, nextFirst(segs, i), size)
		if gained > 0 {
			sum.Files++
		}
		sum.After += size - gained
		return err
	})
	return sum, err
}

// compact makes s anew and returns the bytes that it gained.
func (r *Repairer) compact(ctx context.Context, s *segment, end uint64, size int64) (gained int64, err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	if findings, _ := r.verifySegment(s); len(findings) > 0 {
		return 0, nil
	}
	cursors, err := s.cursors()
	if err != nil {
		return 0, err
	}
	if s.clamp(end); s.tally.events == 0 {
		return 0, nil
	}
	fresh, err := rewriteLarger(ctx, filepath.Dir(s.path), s, cursors)
	if err != nil {
		return 0, err
	}
	if gained = size - fileSize(fresh.path); gained < size/10 {
		return 0, fresh.remove()
	}
	return gained, s.remove()
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
