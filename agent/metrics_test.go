package agent

import (
	"regexp"
	"strings"
	"testing"
)

// TestMetricsKeepPrometheusRules holds the page against what "promtool check
// metrics" demands: a help text, a type, and suffixes that fit the type.
func TestMetricsKeepPrometheusRules(t *testing.T) {
	p := newPlant(t)
	defer p.start(t)()
	page := waitPage(t, "http://"+p.http+"/metrics", `sluice_source_up{source="line"} 1`)
	kinds, helped, sampled := map[string]string{}, map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(page) {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if helped[words[2]] {
				t.Errorf("%s is explained twice", words[2])
			}
			helped[words[2]] = len(words) > 3
		case strings.HasPrefix(line, "# TYPE "):
			kinds[words[2]] = words[3]
		default:
			sampled[family(words[0], kinds)] = true
		}
	}
	for name := range sampled {
		kind := kinds[name]
		if !helped[name] || kind == "" {
			t.Errorf("%s has no help text, or no type", name)
		}
		if strings.HasSuffix(name, "_total") != (kind == "counter") {
			t.Errorf("%s is a %s: a counter, and nothing else, ends with _total", name, kind)
		}
		if regexp.MustCompile("_(count|sum|bucket)$").MatchString(name) {
			t.Errorf("%s has the name of a part of a histogram", name)
		}
	}
	for name := range help {
		if !strings.HasPrefix(name, "sluice_uplink_failed_over") && !strings.HasPrefix(name, "sluice_modbus") && !sampled[name] {
			t.Errorf("%s is not there", name)
		}
	}
	for _, line := range []string{`sluice_config_info{state="applied"} 1`, `sluice_config_info{state="rolled_back"} 0`, "process_open_fds ", "go_goroutines "} {
		if !strings.Contains(page, "\n"+line) {
			t.Errorf("there is no line %s", line)
		}
	}
}

// family is the metric that a sample belongs to.
func family(sample string, kinds map[string]string) string {
	name, _, _ := strings.Cut(sample, "{")
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		if whole, ok := strings.CutSuffix(name, part); ok && (kinds[whole] == "histogram" || kinds[whole] == "summary") {
			return whole
		}
	}
	return name
}
