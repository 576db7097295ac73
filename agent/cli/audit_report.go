package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/uplink/audit"
)

// auditFormat is the version of the JSON form.
const auditFormat = 1

// isProblem says whether there is something wrong with a lane.
func isProblem(l *audit.Lane) bool {
	return l.Unexplained+l.Duplicates+l.OutOfOrder > 0 || l.Coarse
}

// lanes are the lanes that are shown.
func (o *auditOptions) lanes(r *audit.Result) func(func(audit.Lane) bool) {
	return func(yield func(audit.Lane) bool) {
		for l := range r.Lanes() {
			if (!o.problems || isProblem(&l)) && !yield(l) {
				return
			}
		}
	}
}

// auditJSON prints one document. Lanes are written one by one: there may be tens
// of thousands.
func auditJSON(out io.Writer, r *audit.Result, o *auditOptions) error {
	w := bufio.NewWriterSize(out, 64<<10)
	var err error
	put := func(before string, v any) {
		if err != nil {
			return
		}
		var b []byte
		if b, err = json.Marshal(v); err == nil {
			_, err = w.WriteString(before + string(b))
		}
	}
	put(`{"format":`, auditFormat)
	put(`,"began":`, r.Began.UTC())
	put(`,"ended":`, r.Ended.UTC())
	put(`,"complete":`, len(r.Incomplete) == 0)
	put(`,"incomplete":`, append([]string{}, r.Incomplete...))
	put(`,"warnings":`, append([]string{}, r.Warnings...))
	put(`,"topics":`, append([]audit.Topic{}, r.Topics...))
	put(`,"totals":`, r.Totals)
	put(`,"malformed_examples":`, append([]audit.Malformed{}, r.Malformed...))
	if err == nil {
		_, err = w.WriteString(`,"lanes":[`)
	}
	before := "\n"
	for l := range o.lanes(r) {
		put(before, l)
		before = ",\n"
	}
	if err == nil {
		_, err = w.WriteString("\n]}\n")
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

// auditText prints a table, what is wrong below it, and one line of totals at the
// end.
func auditText(out io.Writer, r *audit.Result, o *auditOptions) error {
	buffered := bufio.NewWriterSize(out, 64<<10)
	w := tabwriter.NewWriter(buffered, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "AGENT\tCLASS\tINCARNATION\tBEGINS\tFIRST\tLAST\tDELIVERED\tEXPLAINED\tUNEXPLAINED\tCUT OFF\tDUPLICATES\tREPLAYED\tDISORDER\tNEWEST\tDELIVERED RANGES\n")
	for l := range o.lanes(r) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%d\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", l.Agent, l.Class, l.Incarnation, l.Begins, l.First, l.Last,
			aboutNumber(&l, l.Delivered, "<="), sum(l.Explained), aboutNumber(&l, l.Unexplained, ">="), l.CutOff, l.Duplicates, l.Replayed, l.OutOfOrder, l.Newest.Format(time.RFC3339), deliveredText(&l))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for l := range o.lanes(r) {
		details(buffered, &l)
	}
	for _, m := range r.Malformed {
		fmt.Fprintf(buffered, "malformed: %s: ce_id %q: %s\n", placeText(m.Place), m.ID, m.Problem)
	}
	for _, text := range r.Warnings {
		fmt.Fprintf(buffered, "warning: %s\n", text)
	}
	for _, text := range r.Incomplete {
		fmt.Fprintf(buffered, "incomplete: %s\n", text)
	}
	t := &r.Totals
	fmt.Fprintf(buffered, "lanes=%d records=%d delivered=%d explained=%d unexplained=%d cut_off=%d duplicates=%d replayed=%d disorder=%d foreign=%d malformed=%d complete=%t\n",
		t.Lanes, t.Records, t.Delivered, sum(t.Explained), t.Unexplained, t.CutOff, t.Duplicates, t.Replayed, t.OutOfOrder, t.Foreign, t.Malformed, len(r.Incomplete) == 0)
	return buffered.Flush()
}

// aboutNumber marks the numbers of a lane that was only counted.
func aboutNumber(l *audit.Lane, n uint64, mark string) string {
	if !l.Coarse {
		mark = ""
	}
	return fmt.Sprintf("%s%d", mark, n)
}

// details prints what a row of the table can't hold.
func details(w io.Writer, l *audit.Lane) {
	name := l.Agent + "/" + l.Class + "/" + l.Incarnation
	if len(l.Explained) > 0 {
		var parts []string
		for _, reason := range slices.Sorted(maps.Keys(l.Explained)) {
			parts = append(parts, fmt.Sprintf("%s %d", reason, l.Explained[reason]))
		}
		fmt.Fprintf(w, "%s: explained: %s%s\n", name, strings.Join(parts, ", "), explainedText(l))
	}
	if l.Unexplained > 0 {
		where := "where is not known, for want of memory"
		if !l.Coarse {
			where = fmt.Sprintf("in %d ranges: %s", l.UnexplainedRanges, rangesText(l))
		}
		fmt.Fprintf(w, "%s: UNEXPLAINED: %s numbers %s\n", name, aboutNumber(l, l.Unexplained, "at least "), where)
	}
	for _, p := range l.DuplicateExamples {
		fmt.Fprintf(w, "%s: duplicate: number %d again at %s\n", name, p.Seq, placeText(p))
	}
	if l.Duplicates > uint64(len(l.DuplicateExamples)) {
		fmt.Fprintf(w, "%s: and %d more duplicates\n", name, l.Duplicates-uint64(len(l.DuplicateExamples)))
	}
	switch {
	case l.FollowedAfter > 0:
		fmt.Fprintf(w, "%s: a newer incarnation, %s, follows with number %d; if it took over this log, this one ended with %d, and %s\n", name, l.FollowedBy,
			l.FollowedAfter+1, l.FollowedAfter, tail(l))
	case l.FollowedBy != "":
		fmt.Fprintf(w, "%s: a newer incarnation, %s, follows; nothing says how far this one went after number %d\n", name, l.FollowedBy, l.Last)
	}
}

func tail(l *audit.Lane) string {
	if l.FollowedAfter <= l.Last {
		return "is there to its end"
	}
	return fmt.Sprintf("lacks %d to %d", l.Last+1, l.FollowedAfter)
}

// shownRanges is how many delivered and explained ranges of a lane are printed; --json has more.
const shownRanges = 5

// deliveredText is the first ranges of what is there.
func deliveredText(l *audit.Lane) string {
	if l.Coarse {
		return "not known"
	}
	var parts []string
	for _, r := range l.DeliveredRanges[:min(len(l.DeliveredRanges), shownRanges)] {
		parts = append(parts, rangeText(r))
	}
	return listText(parts, l.DeliveredRangeCount)
}

// explainedText is the first ranges of what gap records explain; empty where that
// is not known.
func explainedText(l *audit.Lane) string {
	if l.ExplainedRangeCount == 0 {
		return ""
	}
	var parts []string
	for _, r := range l.ExplainedRanges[:min(len(l.ExplainedRanges), shownRanges)] {
		parts = append(parts, rangeText(r.Range)+" "+plainText(r.Reason))
	}
	return fmt.Sprintf(", in %d ranges: %s", l.ExplainedRangeCount, listText(parts, l.ExplainedRangeCount))
}

// listText joins the first of all parts and says how many there are beside them.
func listText(parts []string, all uint64) string {
	text := strings.Join(parts, ", ")
	if n := uint64(len(parts)); n > 0 && all > n {
		text += fmt.Sprintf(", … %d more", all-n)
	}
	return text
}

func rangeText(r audit.Range) string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func rangesText(l *audit.Lane) string {
	var parts []string
	for _, r := range l.UnexplainedExamples {
		parts = append(parts, rangeText(r))
	}
	if l.UnexplainedRanges > uint64(len(parts)) {
		parts = append(parts, "…")
	}
	return strings.Join(parts, " ")
}

func placeText(p audit.Place) string {
	text := fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset)
	if p.Cluster > 1 {
		text += fmt.Sprintf(" of cluster %d", p.Cluster)
	}
	return text
}
