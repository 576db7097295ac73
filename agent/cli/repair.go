package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"sluice/buffer"
)

// repairer mends a data directory; *buffer.Repairer is one.
type repairer interface {
	Repair(ctx context.Context, dryRun bool, progress func(done, all int)) ([]buffer.RepairAction, error)
	Compact(ctx context.Context, progress func(done, all int)) (buffer.CompactResult, error)
}

// mend runs the verbs that change the directory. Each file is done or not, so
// that a run that was stopped can be repeated.
func mend(ctx context.Context, c *call, verb string, opt bufferOptions) error {
	r, err := buffer.OpenRepair(opt.dir)
	if err != nil {
		return err
	}
	if verb == "repair" {
		err = bufferRepair(ctx, c, r, opt)
	} else {
		err = bufferCompact(ctx, c, r, opt)
	}
	return errors.Join(err, r.Close())
}

func bufferRepair(ctx context.Context, c *call, r repairer, opt bufferOptions) error {
	p := newProgress(c.Err)
	actions, err := r.Repair(ctx, opt.dryRun, p.show)
	p.clear()
	if opt.json {
		err = errors.Join(err, json.NewEncoder(c.Out).Encode(append([]buffer.RepairAction{}, actions...)))
	} else {
		showRepairs(c.Out, actions, opt.dryRun, err == nil)
	}
	switch {
	case err != nil:
		return stopped(err)
	case opt.dryRun && len(actions) > 0:
		return errFound
	}
	return nil
}

// showRepairs prints a line for each file and a last one for all of them. done
// is false when the repair ended before its time.
func showRepairs(w io.Writer, actions []buffer.RepairAction, dryRun, done bool) {
	var saved uint64
	lost := 0
	for _, a := range actions {
		saved, lost = saved+a.Saved, lost+len(a.Lost)
		fmt.Fprintln(w, repairLine(a, dryRun))
	}
	switch {
	case len(actions) > 0 && dryRun:
		fmt.Fprintf(w, "to mend: %s; %s can be saved, %s cannot (nothing was changed)\n", count(len(actions), "file"), count(saved, "event"), count(lost, "range"))
	case len(actions) > 0:
		fmt.Fprintf(w, "mended: %s; %s saved, %s lost\n", count(len(actions), "file"), count(saved, "event"), count(lost, "range"))
	case done:
		fmt.Fprintln(w, "nothing is damaged")
	}
}

// repairLine is what happened to one file, or would.
func repairLine(a buffer.RepairAction, dryRun bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s; ", a.File, a.What)
	lost := strings.Join(a.Lost, ", ")
	switch {
	case dryRun && lost != "":
		fmt.Fprintf(&b, "%s can be saved, %s cannot", count(a.Saved, "event"), lost)
	case dryRun:
		fmt.Fprintf(&b, "%s can be saved", count(a.Saved, "event"))
	case lost != "":
		fmt.Fprintf(&b, "%s saved, lost: %s", count(a.Saved, "event"), lost)
	default:
		fmt.Fprintf(&b, "%s saved, none lost", count(a.Saved, "event"))
	}
	if a.Aside != "" {
		b.WriteString("; the damaged file is kept as " + a.Aside)
	}
	return b.String()
}

func bufferCompact(ctx context.Context, c *call, r repairer, opt bufferOptions) error {
	p := newProgress(c.Err)
	res, err := r.Compact(ctx, p.show)
	p.clear()
	switch {
	case opt.json:
		err = errors.Join(err, json.NewEncoder(c.Out).Encode(res))
	case err == nil || res.Files > 0:
		fmt.Fprintf(c.Out, "before: %d KiB, after: %d KiB (%s compacted)\n", res.Before>>10, res.After>>10, count(res.Files, "file"))
	}
	return stopped(err)
}

// stopped says of a run that was interrupted that it can be repeated.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("stopped before the end: what is done is done, run it again for the rest")
	}
	return err
}

// count is a number with its word, in the plural where it is not one.
func count[N int | uint64](n N, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// progress shows on a terminal how far a long run is, in one line that it writes
// over. Without a terminal it shows nothing.
type progress struct {
	w     io.Writer // nil: nothing to show it on
	last  time.Time
	shown bool
}

func newProgress(w io.Writer) *progress {
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return &progress{w: w}
		}
	}
	return &progress{}
}

func (p *progress) show(done, all int) {
	if p.w == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.w, "\r\x1b[K%d of %d files", done, all)
}

// clear takes the line away before something else is printed.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
