package sparkplug

import "strconv"

// sheet is the metrics of a message, or of a template, as JSON: each field the
// members of one object or the items of one list.
type sheet struct {
	values     []byte // by name: the latest value
	quality    []byte // by name: of the latest value, where it is not good
	times      []byte // by name: of the latest value, where it is not that of the message
	history    []byte // what is not the latest value: historical, or overtaken in the same message
	unresolved []byte // metrics whose alias no birth told
	transient  []byte // names of metrics that are not to be stored in a historian
	properties []byte // by name
	metadata   []byte // by name
}

// append appends what s holds, values always.
func (s *sheet) append(dst []byte) []byte {
	dst = append(append(append(appendKey(dst, "values"), '{'), s.values...), '}')
	for _, part := range []struct {
		name     string
		content  []byte
		brackets string
	}{
		{"quality", s.quality, "{}"}, {"times", s.times, "{}"}, {"history", s.history, "[]"}, {"unresolved", s.unresolved, "[]"},
		{"transient", s.transient, "[]"}, {"properties", s.properties, "{}"}, {"metadata", s.metadata, "{}"},
	} {
		if len(part.content) > 0 {
			dst = append(appendKey(dst, part.name), part.brackets[0])
			dst = append(append(dst, part.content...), part.brackets[1])
		}
	}
	return dst
}

func (s *sheet) size() int {
	return len(s.values) + len(s.quality) + len(s.times) + len(s.history) + len(s.unresolved) + len(s.transient) + len(s.properties) + len(s.metadata)
}

// sheet fills s with metrics, which known names where they have an alias alone.
func (r *renderer) sheet(s *sheet, metrics []metric, known *scope, depth int) error {
	latest := make(map[string]int, len(metrics))
	for i := range metrics {
		m := &metrics[i]
		d := known.find(m)
		if m.name == "" && d != nil {
			m.name = d.name
		}
		if m.typ == typeUnknown && d != nil {
			m.typ = d.typ
		}
		if !m.historical && m.named() {
			latest[m.name] = i // the order is that of time, Sparkplug 3.0.0 §5.16
		}
	}
	for i := range metrics {
		m := &metrics[i]
		before := s.size()
		at, isLatest := latest[m.name]
		if err := r.metric(s, m, known, depth, isLatest && at == i && m.named()); err != nil {
			return err
		}
		if !r.spend(s.size() - before) {
			return errLarge
		}
	}
	return nil
}

// named says whether the metric's name is known. One that came with neither name
// nor alias has the empty one.
func (m *metric) named() bool { return m.name != "" || !m.hasAlias }

// metric adds one metric to s.
func (r *renderer) metric(s *sheet, m *metric, known *scope, depth int, latest bool) error {
	var members *scope
	if d := known.find(m); d != nil {
		members = d.members
	}
	outer := r.base
	told := m.hasTime && m.time != outer
	if m.hasTime {
		r.base = m.time
	}
	var text [64]byte
	value, quality, err := r.value(text[:0], m.value, m.typ, members, depth)
	r.base = outer
	if err != nil {
		return err
	}
	properties, told2, err := r.properties(m)
	if err != nil {
		return err
	}
	if quality == good || quality == untyped && told2 != good {
		quality = told2
	}
	r.unknown = r.unknown || quality == untyped || !m.named()
	if !latest {
		return s.entry(m, value, quality, told)
	}
	s.values = append(appendKey(s.values, m.name), value...)
	if quality != good {
		s.quality = appendString(appendKey(s.quality, m.name), quality)
	}
	if told {
		s.times = appendTime(appendKey(s.times, m.name), m.time)
	}
	if m.transient {
		s.transient = appendString(comma(s.transient), m.name)
	}
	if len(properties) > len("{}") {
		s.properties = append(appendKey(s.properties, m.name), properties...)
	}
	if m.metadata != nil {
		s.metadata, err = metadata(appendKey(s.metadata, m.name), m.metadata)
	}
	return err
}

// properties renders the properties of a metric without the one that tells its
// quality, which it returns as a word.
func (r *renderer) properties(m *metric) (text []byte, quality string, err error) {
	if m.properties == nil {
		return nil, good, nil
	}
	text, p, err := r.propertySet(nil, m.properties, "Quality", 0)
	return text, p.quality(), err
}

// entry adds a metric that is no latest value, as an object of its own.
func (s *sheet) entry(m *metric, value []byte, quality string, told bool) error {
	list := &s.history
	if !m.named() {
		list = &s.unresolved
	}
	dst := append(comma(*list), '{')
	if m.named() {
		dst = appendString(appendKey(dst, "name"), m.name)
	} else {
		dst = strconv.AppendUint(appendKey(dst, "alias"), m.alias, 10)
	}
	if told {
		dst = appendTime(appendKey(dst, "time"), m.time)
	}
	dst = append(appendKey(dst, "value"), value...)
	if quality != good {
		dst = appendString(appendKey(dst, "quality"), quality)
	}
	*list = append(dst, '}')
	return nil
}

// comma appends a comma where dst holds something already.
func comma(dst []byte) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	return dst
}
