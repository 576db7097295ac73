package config

import (
	"path/filepath"
	"slices"

	"sluice/uplink/gate"
)

// IsOpenAtTimes says whether there are times at which nothing may be sent.
func (k *Kafka) IsOpenAtTimes() bool {
	return len(k.Schedule) > 0 || k.OnlyIf != nil && k.OnlyIf.Metered != nil
}

// checkOpening looks at when an uplink may send.
func (d *decoder) checkOpening(u *Uplink, path string) {
	k, at := u.Kafka, path+".kafka"
	for i, entry := range k.Schedule {
		if _, err := gate.ParseSchedule([]string{entry}); err != nil {
			d.wrong(index(at+".schedule", i), err.Error(), gate.Forms)
		}
	}
	if _, err := gate.Zone(k.Timezone); err != nil && !d.operator { // only the machine that it is for can judge
		d.wrong(at+".timezone", err.Error(), "UTC, local, an offset such as +02:00, or a name that this machine knows")
	}
	if k.Metered != nil {
		d.checkMetered(k.Metered, at+".metered")
	} else if k.OnlyIf != nil && k.OnlyIf.Metered != nil {
		d.wrong(at+".only_if.metered", "needs something that says whether the link is metered", "metered: { file: … } or metered: { command: [ … ] } beside only_if")
	}
	if len(k.Always) > 0 && !k.IsOpenAtTimes() {
		d.wrong(at+".always", "has no schedule or only_if beside it", "leave it out: all classes are sent always")
	}
	for i, class := range k.Always {
		if !u.Sends(class) || d.cfg.Class(class) == nil && !slices.Contains(d.cfg.usedClasses(), class) {
			d.wrong(index(at+".always", i), d.show(index(at+".always", i), class)+" is not a class that this uplink sends", "one of its classes")
		}
	}
	if k.IsOpenAtTimes() && (u.Failover != "" || len(d.cfg.StandsInFor(u.Name)) > 0) {
		key := "schedule"
		if len(k.Schedule) == 0 {
			key = "only_if"
		}
		d.wrong(join(at, key), "does not go together with failover", "leave one of them out: a closed link is not a broken one")
	}
}

func (d *decoder) checkMetered(m *Metered, path string) {
	switch {
	case d.bad[path+".file"] || d.bad[path+".command"]:
	case m.File == "" && len(m.Command) == 0:
		d.wrong(path, "has neither file nor command", "one of them")
	case m.File != "" && len(m.Command) > 0:
		d.wrong(path+".command", "does not go together with file", "one of them")
	case len(m.Command) > 0 && !filepath.IsAbs(m.Command[0]):
		d.wrong(index(path+".command", 0), d.show(index(path+".command", 0), m.Command[0])+" is not an absolute path", "a program such as /usr/local/bin/is-metered")
	}
}
