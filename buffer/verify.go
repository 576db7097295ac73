package buffer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Finding is one thing that is damaged or missing.
type Finding struct {
	File  string `json:"file"`
	First uint64 `json:"first"` // the first event concerned; 0: all of the file, or none
	What  string `json:"what"`

	newer bool // a block of a newer version: it is not damaged
}

// Verify reads everything and returns what is damaged, and what is missing without
// an explanation. progress, which may be nil, is called after each file with the
// number of files done and of all.
func (o *Offline) Verify(ctx context.Context, progress func(done, all int)) ([]Finding, error) {
	findings := o.verifyState()
	damaged := len(findings)
	var present []span
	err := o.eachSegment(ctx, progress, func(class string, segs []*segment, i int) error {
		found, spans := o.verifySegment(segs[i])
		findings, damaged = append(findings, found...), damaged+len(found)
		present = append(present, spans...)
		if i == len(segs)-1 {
			if damaged == 0 { // else what is missing follows from that
				findings = append(findings, o.verifyNumbers(class, segs[0].about.First, present)...)
			}
			present = nil
		}
		return nil
	})
	return findings, err
}

func (o *Offline) verifyState() (findings []Finding) {
	if _, err := o.readState(); err != nil {
		hint := "the agent starts without it"
		if path := new(fs.PathError); errors.As(err, &path) && !errors.Is(err, fs.ErrNotExist) {
			hint = "the agent starts once it can be read, or is moved away"
		}
		findings = append(findings, Finding{File: stateName, What: fmt.Sprintf("%v (%s: the segments hold cursors and incarnation, too)", err, hint)})
	}
	f, err := os.Open(filepath.Join(o.dir, marksName))
	if errors.Is(err, fs.ErrNotExist) { // made at the next start
		return findings
	}
	if err == nil {
		var damaged bool
		if _, _, damaged, err = readSlots(f); err == nil && damaged {
			err = errors.New("one of its two slots is damaged")
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		findings = append(findings, Finding{File: marksName, What: err.Error() + " (it is needed only when " + stateName + " is lost)"})
	}
	return findings
}

// verifySegment reads all of s and lists the numbers that it holds or accounts
// for.
func (o *Offline) verifySegment(s *segment) (findings []Finding, present []span) {
	file, _ := filepath.Rel(o.dir, s.path)
	found := func(first uint64, what string) {
		findings = append(findings, Finding{File: file, First: first, What: what})
	}
	defer func() { _ = s.close() }() // it was only read
	if err := s.load(); err != nil {
		found(0, err.Error())
		return findings, nil
	}
	if valid, err := s.metasValid(); err != nil {
		found(0, err.Error())
	} else if !valid {
		found(0, "one of the two meta pages is damaged: the last commit may be missing")
	}
	var events uint64
	err := s.each(func(first uint64, block []byte) error {
		h, _, err := o.codec.decode(block, s.about.Class)
		switch {
		case errors.Is(err, ErrNewer):
			findings = append(findings, Finding{File: file, First: first, What: err.Error(), newer: true})
		case err != nil:
			found(first, err.Error())
		case h.first != first:
			found(first, fmt.Sprintf("the block says that it begins with %d", h.first))
		default:
			present = append(present, span{first, h.last()})
		}
		events += uint64(h.count)
		return nil
	})
	switch {
	case err != nil:
		found(0, err.Error())
	case len(findings) == 0 && events != s.tally.events:
		found(0, fmt.Sprintf("%d events, %d were committed", events, s.tally.events))
	}
	for _, g := range s.gaps {
		present = append(present, g.gap.spans()...)
	}
	return findings, append(present, s.skips...)
}

// verifyNumbers looks for numbers of a class from first on that are neither
// present nor owed, and that some uplink has not passed.
func (o *Offline) verifyNumbers(class string, first uint64, present []span) (findings []Finding) {
	c := o.state.Classes[class]
	for _, d := range c.Debts {
		present = append(present, d.spans()...)
	}
	last := uint64(0)
	for _, s := range present {
		last = max(last, s.last)
	}
	if cursors := slices.Sorted(maps.Values(c.Cursors)); len(cursors) > 0 {
		first = max(first, cursors[0]+1)
	}
	if first > last {
		return nil
	}
	for _, m := range subtract([]span{{first, last}}, sortSpans(present)) {
		findings = append(findings, Finding{File: filepath.Join("classes", class), First: m.first,
			What: fmt.Sprintf("the events %d to %d are missing (the agent makes a gap record for them when it comes to them)", m.first, m.last)})
	}
	return findings
}

// each visits the segments of all classes, oldest first.
func (o *Offline) eachSegment(ctx context.Context, progress func(done, all int), visit func(class string, segs []*segment, i int) error) error {
	names, err := o.classes()
	if err != nil {
		return err
	}
	lists, all, done := map[string][]*segment{}, 0, 0
	for _, name := range names {
		if lists[name], err = o.segments(name); err != nil {
			return err
		}
		all += len(lists[name])
	}
	for _, name := range names {
		for i, s := range lists[name] {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err := visit(name, lists[name], i)
			if err = errors.Join(err, s.close()); err != nil {
				return err
			}
			if done++; progress != nil {
				progress(done, all)
			}
		}
	}
	return nil
}
