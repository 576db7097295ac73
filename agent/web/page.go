package web

import (
	"fmt"
	"html"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// The page is plain HTML made on the spot: it works on any phone, without
// scripts, and loads nothing from elsewhere.
const pageHead = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="refresh" content="3"><title>%s · Sluice</title><style>
body{font:16px/1.4 system-ui,sans-serif;margin:1rem auto;max-width:60rem;padding:0 .8rem;color:#1b1f24;background:#fff}
h1{font-size:1.3rem}h2{font-size:1.05rem;margin:1.4rem 0 .3rem}table{border-collapse:collapse;width:100%%}
td,th{text-align:left;padding:.3rem .5rem;border-bottom:1px solid #d0d7de;vertical-align:top}td span,td small,.box{overflow-wrap:anywhere}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
@media(max-width:30rem){body{font-size:14px}td,th{padding:.25rem .3rem}}
.up{color:#116329}.down{color:#a40e26;font-weight:600}.box{padding:.5rem .8rem;border-radius:.4rem;background:#dafbe1}.box.bad{background:#ffebe9}
small{color:#57606a}@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}td,th{border-color:#30363d}.up{color:#3fb950}.down{color:#ff7b72}.box{background:#12361f}.box.bad{background:#4c1519}small{color:#9198a1}}
</style></head><body>
`

// writePage writes the status page.
func writePage(w io.Writer, st Status) {
	var b strings.Builder
	fmt.Fprintf(&b, pageHead, html.EscapeString(st.Agent))
	fmt.Fprintf(&b, "<h1>%s <small>Sluice %s, up %s</small></h1>\n", html.EscapeString(st.Agent), html.EscapeString(st.Version),
		time.Duration(st.UptimeSeconds*float64(time.Second)).Round(time.Second))
	if len(st.Reasons) == 0 {
		b.WriteString("<p class=\"box\">All well.</p>\n")
	} else {
		b.WriteString("<p class=\"box bad\">" + strings.ReplaceAll(html.EscapeString(strings.Join(st.Reasons, "\n")), "\n", "<br>") + "</p>\n")
	}
	if text := st.Config.Text(); text != "" {
		b.WriteString("<p>Config: " + html.EscapeString(text) + "</p>\n")
	}
	table(&b, "Sources", []string{"Source", "State", "#Taken", "#Refused"}, st.Sources, func(name string, s Source) []string {
		return []string{name, mark(s.Up, s.State, s.LastError), total(s.Taken), total(s.Rejected)}
	})
	for _, source := range slices.Sorted(maps.Keys(st.Sources)) {
		if devices := st.Sources[source].Devices; len(devices) > 0 {
			table(&b, "Devices of "+source, []string{"Device", "State", "#Polls"}, devices, func(name string, d Device) []string {
				return []string{name, mark(d.Up, "", d.LastError), total(d.Polls)}
			})
		}
	}
	table(&b, "Buffer", []string{"Class", "State", "#Not delivered", "#Oldest", "#On disk"}, st.Classes, func(name string, c Class) []string {
		state := "ok"
		if c.Blocked {
			state = "full: sources wait"
		}
		return []string{name, mark(c.Fault == "" && !c.Blocked, state, c.Fault), fmt.Sprint(c.Events),
			time.Duration(c.OldestSeconds * float64(time.Second)).Round(time.Second).String(), size(c.Bytes)}
	})
	table(&b, "Uplinks", []string{"Uplink", "State", "#Delivered", "#Waiting"}, st.Uplinks, func(name string, u Uplink) []string {
		if u.Closed { // as it is meant to be
			u.Up, u.LastError = true, ""
		}
		return []string{name, mark(u.Up, u.State, u.LastError), total(u.Delivered), total(u.Lag)}
	})
	b.WriteString("<p><small><a href=\"/api/v1/status\">status as JSON</a> · <a href=\"/metrics\">metrics</a></small></p></body></html>\n")
	_, _ = io.WriteString(w, b.String())
}

// table writes a heading and a row for each of rows. A column whose name begins
// with # holds numbers. Cells are text, or what mark made.
func table[T any](b *strings.Builder, title string, columns []string, rows map[string]T, cells func(string, T) []string) {
	fmt.Fprintf(b, "<h2>%s</h2>\n<table><tr>", html.EscapeString(title))
	for _, c := range columns {
		fmt.Fprintf(b, "<th%s>%s</th>", numeric(c), html.EscapeString(strings.TrimPrefix(c, "#")))
	}
	b.WriteString("</tr>\n")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		b.WriteString("<tr>")
		for i, cell := range cells(name, rows[name]) {
			if !strings.HasPrefix(cell, "<span") {
				cell = html.EscapeString(cell)
			}
			fmt.Fprintf(b, "<td%s>%s</td>", numeric(columns[i]), cell)
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</table>\n")
}

func numeric(column string) string {
	if strings.HasPrefix(column, "#") {
		return ` class="n"`
	}
	return ""
}

func mark(up bool, state, lastError string) string {
	class, word := "up", "up"
	if !up {
		class, word = "down", "down"
	}
	if state != "" {
		word = state
	}
	text := fmt.Sprintf(`<span class="%s">%s</span>`, class, html.EscapeString(word))
	if lastError != "" && !strings.Contains(state, lastError) {
		text += "<br><small>last error: " + html.EscapeString(lastError) + "</small>"
	}
	return text
}

func total(counts map[string]uint64) string {
	var n uint64
	for _, c := range counts {
		n += c
	}
	return fmt.Sprint(n)
}

func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	default:
		return fmt.Sprintf("%.0f KiB", float64(bytes)/(1<<10))
	}
}
