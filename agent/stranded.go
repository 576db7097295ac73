package agent

import (
	"fmt"
	"slices"
	"strings"

	"sluice/agent/config"
	"sluice/buffer"
)

// Stranded says, a line for each uplink and class, which events in the data
// directory of cfg wait for an uplink that cfg does not have, or are given up
// with one that it declares as removed. It changes nothing, and says nothing of
// a directory that is not there, cannot be read or is in use.
func Stranded(cfg *config.Config) (lines []string) {
	for _, s := range stranded(cfg) {
		lines = append(lines, strandedLine(cfg, s))
	}
	return lines
}

func strandedLine(cfg *config.Config, s buffer.StrandedUplink) string {
	switch {
	case s.Removed && cfg.Uplink(s.Uplink) != nil:
		return fmt.Sprintf("uplink %q only stands in for %s now: %d events of class %s that it has not got will be given up",
			s.Uplink, strings.Join(cfg.StandsInFor(s.Uplink), ", "), s.Events, s.Class)
	case s.Removed:
		return fmt.Sprintf("uplink %q is removed: %d events of class %s that it has not got will be given up", s.Uplink, s.Events, s.Class)
	case cfg.Uplink(s.Uplink) != nil:
		return fmt.Sprintf("uplink %q does not send class %s any more: %d events wait for it; put the class back into its kafka.classes", s.Uplink, s.Class, s.Events)
	}
	return fmt.Sprintf(`uplink %q is not in the config any more: %d events of class %s wait for it and hold their space; `+
		`put it back, or write "uplinks: { %s: { removed: true } }" to give them up`, s.Uplink, s.Events, s.Class, s.Uplink)
}

func stranded(cfg *config.Config) []buffer.StrandedUplink {
	list, err := buffer.Stranded(cfg.Agent.DataDir, routes(cfg), givenUp(cfg))
	if err != nil {
		return nil // a check may run far from the gateway
	}
	return list
}

// warnStranded logs the same at a start. The buffer must not be open yet:
// opening it gives up what is declared as removed.
func (a *Agent) warnStranded(cfg *config.Config) {
	for _, s := range stranded(cfg) {
		if slices.Contains(a.gone, s.Uplink) { // it never counted
			continue
		}
		log := a.log.With("uplink", s.Uplink, "class", s.Class, "events", s.Events)
		switch {
		case s.Removed && cfg.Uplink(s.Uplink) != nil:
			log.Warn("an uplink only stands in for another one now: events that it has not got are given up", "for", strings.Join(cfg.StandsInFor(s.Uplink), ", "))
		case s.Removed:
			log.Warn("an uplink is removed: events that it has not got are given up")
		case cfg.Uplink(s.Uplink) != nil:
			log.Warn("an uplink does not send this class any more: events wait for it; put the class back into its kafka.classes")
		default:
			log.Warn("an uplink is not in the config any more: events wait for it and hold their space; " +
				"put it back, or declare it as removed (uplinks.NAME.removed: true) to give them up")
		}
	}
}
