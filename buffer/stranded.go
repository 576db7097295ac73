package buffer

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
)

// StrandedUplink is what waits in a class for an uplink that does not read it any
// more.
type StrandedUplink struct {
	Uplink, Class string
	Events        uint64 // numbers after its cursor; at least as many while an agent runs there
	Removed       bool   // declared as removed: they will be given up
}

// Stranded lists what the buffer in dir holds for uplinks that are not among
// uplinks (as in Config), or do not read the class any more. It changes nothing
// and may be called while an agent runs there: the cursors are then those of the
// last save, a few seconds ago. An error says that there is no buffer to read.
func Stranded(dir string, uplinks map[string][]string, removed []string) ([]StrandedUplink, error) {
	st, err := readState(dir)
	if err != nil {
		return nil, err
	}
	newest := map[string]uint64{}
	if o, err := OpenOffline(dir); err == nil { // no agent has it: the segments tell exactly
		classes, err := o.Stat()
		if err = errors.Join(err, o.Close()); err != nil {
			return nil, err
		}
		for _, c := range classes {
			for _, s := range c.Segments {
				newest[c.Name] = max(newest[c.Name], s.Last)
			}
			for name, seq := range st.Classes[c.Name].Cursors { // one that only a segment knows was removed
				st.Classes[c.Name].Cursors[name] = max(seq, c.Cursors[name])
			}
		}
	}
	var out []StrandedUplink
	for _, class := range slices.Sorted(maps.Keys(st.Classes)) {
		c := st.Classes[class]
		last := max(newest[class], c.Newest, max(c.Next, 1)-1)
		for _, name := range slices.Sorted(maps.Keys(c.Cursors)) {
			classes, configured := uplinks[name]
			if configured && (classes == nil || slices.Contains(classes, class)) {
				continue
			}
			end := last
			if until := c.Until[name]; until > 0 && !configured {
				end = min(end, until)
			}
			if c.Cursors[name] < end {
				out = append(out, StrandedUplink{Uplink: name, Class: class, Events: end - c.Cursors[name],
					Removed: !configured && slices.Contains(removed, name)})
			}
		}
	}
	return out, nil
}

// readState reads the state file of dir without changing anything.
func readState(dir string) (savedState, error) {
	return (&Offline{dir: filepath.Clean(dir)}).readState()
}
