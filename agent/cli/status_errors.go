package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"sluice/agent/web"
)

// Bounds of the list of last errors.
const (
	shownTroubles = 10
	troubleLength = 200 // characters of one
)

// trouble is the last error of one part of the agent.
type trouble struct {
	of, text string
	age      float64 // seconds; 0: not known
}

// troubles are the last errors of all sources, devices and uplinks that have one, also
// of those that are up. That of a source is left out where it is the one of a device.
func troubles(st *web.Status) (all []trouble) {
	add := func(of, text string, age float64) {
		if text != "" {
			all = append(all, trouble{of, text, age})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st.Sources)) {
		s := st.Sources[name]
		devices := slices.Sorted(maps.Keys(s.Devices))
		if !slices.ContainsFunc(devices, func(d string) bool { return s.LastError == "device "+d+": "+s.Devices[d].LastError }) {
			add("source "+name, s.LastError, s.ErrorAge)
		}
		for _, d := range devices {
			add("device "+name+"/"+d, s.Devices[d].LastError, s.Devices[d].ErrorAge)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st.Uplinks)) {
		add("uplink "+name, st.Uplinks[name].LastError, st.Uplinks[name].ErrorAge)
	}
	return all
}

// showTroubles prints the latest of all as a table, a line each, in the order of all, so
// that lines keep their places from one time to the next.
func showTroubles(w io.Writer, all []trouble) {
	if len(all) == 0 {
		return
	}
	latest := slices.Clone(all)
	slices.SortStableFunc(latest, func(a, b trouble) int { return cmp.Compare(a.age, b.age) })
	latest = latest[:min(len(latest), shownTroubles)]
	fmt.Fprint(w, "\nLAST ERROR OF\tAGO\tERROR\n")
	for _, t := range all {
		if slices.Contains(latest, t) {
			fmt.Fprintf(w, "%s\t%s\t%s\n", t.of, t.ago(), shorten(plainText(t.text), troubleLength))
		}
	}
	if n := len(all) - len(latest); n > 0 {
		fmt.Fprintf(w, "and %d more, older\n", n)
	}
}

// ago is the age in words.
func (t trouble) ago() string {
	if t.age <= 0 {
		return "-"
	}
	return time.Duration(t.age * float64(time.Second)).Round(time.Second).String()
}

// shorten cuts a text to so many characters.
func shorten(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}
