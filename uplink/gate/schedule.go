package gate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Schedule is a set of times of the week, in minutes of a wall clock. The zero
// value is always. It is read-only.
type Schedule struct{ spans []span }

// span is a time of the day on some days. One that ends before it begins goes on into
// the next day, and belongs to the day on which it begins.
type span struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes of the day; to is not in it, and may be 24:00
}

// Forms says what an entry of a schedule looks like, for messages.
const Forms = "days and times of the day such as Mon-Fri 22:00-06:00, Sat,Sun or 12:00-13:30"

const day = 24 * 60 // minutes

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // by time.Weekday

// ParseSchedule reads entries; a time is in the schedule if it is in one of them. No
// entries: always. The error names the entry.
//
//	entry  = days | times | days " " times
//	days   = day [ "-" day ] { "," day [ "-" day ] }     Fri-Mon is Fri Sat Sun Mon
//	day    = Mon | Tue | Wed | Thu | Fri | Sat | Sun
//	times  = HH:MM "-" HH:MM { "," HH:MM "-" HH:MM }     22:00-06:00 ends the next day
//
// Without days an entry is for every day, without times for the whole day.
func ParseSchedule(entries []string) (Schedule, error) {
	var s Schedule
	for _, entry := range entries {
		spans, err := parseEntry(entry)
		if err != nil {
			return Schedule{}, fmt.Errorf("%q %w", entry, err)
		}
		s.spans = append(s.spans, spans...)
	}
	return s, nil
}

func parseEntry(entry string) ([]span, error) {
	words := strings.Fields(entry)
	if len(words) == 0 || len(words) > 2 {
		return nil, fmt.Errorf("is not days, times or both")
	}
	days := [7]bool{true, true, true, true, true, true, true}
	if !strings.Contains(words[0], ":") {
		var err error
		if days, err = parseDays(words[0]); err != nil {
			return nil, err
		}
		if words = words[1:]; len(words) == 0 {
			return []span{{days, 0, day}}, nil
		}
	}
	if len(words) != 1 {
		return nil, fmt.Errorf("has its days behind its times")
	}
	var spans []span
	for text := range strings.SplitSeq(words[0], ",") {
		from, to, err := parseTimes(text)
		if err != nil {
			return nil, err
		}
		spans = append(spans, span{days, from, to})
	}
	return spans, nil
}

func parseDays(text string) (days [7]bool, err error) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, b := slices.Index(dayNames, strings.ToLower(first)), slices.Index(dayNames, strings.ToLower(last))
		if a < 0 || b < 0 {
			return days, fmt.Errorf("has %q, which is no day", part)
		}
		for days[b] = true; a != b; a = (a + 1) % 7 {
			days[a] = true
		}
	}
	return days, nil
}

func parseTimes(text string) (from, to int, err error) {
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		return 0, 0, fmt.Errorf("has %q, which is not from when to when", text)
	}
	if from, err = parseTime(first); err == nil {
		to, err = parseTime(last)
	}
	switch {
	case err != nil:
		return 0, 0, err
	case from == day:
		return 0, 0, fmt.Errorf("has %q: a day begins at 00:00", text)
	case from == to:
		return 0, 0, fmt.Errorf("has %q, which is no time at all (the whole day is 00:00-24:00)", text)
	}
	return from, to, nil
}

func parseTime(text string) (minute int, err error) {
	hours, minutes, ok := strings.Cut(text, ":")
	h, herr := strconv.ParseUint(hours, 10, 8)
	m, merr := strconv.ParseUint(minutes, 10, 8)
	minute = int(h)*60 + int(m)
	if !ok || herr != nil || merr != nil || len(hours) != 2 || len(minutes) != 2 || m > 59 || minute > day {
		return 0, fmt.Errorf("has %q, which is no time of the day (00:00 to 24:00)", text)
	}
	return minute, nil
}

// Includes says whether t is in the schedule, by the wall clock of t's location.
func (s Schedule) Includes(t time.Time) bool {
	today, minute := t.Weekday(), t.Hour()*60+t.Minute()
	yesterday := (today + 6) % 7
	return len(s.spans) == 0 || slices.ContainsFunc(s.spans, func(p span) bool {
		if p.from < p.to {
			return p.days[today] && p.from <= minute && minute < p.to
		}
		return p.days[today] && minute >= p.from || p.days[yesterday] && minute < p.to
	})
}

// Next returns when Includes will change after t, to the minute; zero: never.
func (s Schedule) Next(t time.Time) time.Time {
	now := s.Includes(t)
	for i, at := 0, t.Truncate(time.Minute); i < 8*day; i++ { // a week, and a day for clocks that are changed
		if at = at.Add(time.Minute); s.Includes(at) != now {
			return at
		}
	}
	return time.Time{}
}

// Zone returns a time zone by its name: UTC (or empty), local, an offset such as
// +02:00, or a name of the zone database, where the machine has it. This program
// brings no zone database of its own.
func Zone(name string) (*time.Location, error) {
	switch {
	case name == "" || name == "UTC":
		return time.UTC, nil
	case name == "local":
		return time.Local, nil
	case name[0] == '+' || name[0] == '-':
		minute, err := parseTime(name[1:])
		if err != nil || minute > 14*60 {
			return nil, fmt.Errorf("%q is no offset (-14:00 to +14:00)", name)
		}
		if name[0] == '-' {
			minute = -minute
		}
		return time.FixedZone(name, minute*60), nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%q is not in the time zones of this machine (is the package tzdata installed?)", name)
	}
	return zone, nil
}
