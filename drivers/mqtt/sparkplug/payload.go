package sparkplug

import (
	"errors"
	"fmt"
)

// Bounds of one message.
const (
	maxMetrics = 1 << 16 // members of templates included
	maxColumns = 1 << 12 // of a data set; properties of a set; parameters of a template
	maxDepth   = 16      // of templates and property sets within each other
)

// Errors of a payload that is beyond the bounds.
var (
	errMetrics = fmt.Errorf("more than %d metrics", maxMetrics)
	errColumns = fmt.Errorf("more than %d columns, properties or parameters", maxColumns)
	errDepth   = fmt.Errorf("templates or properties nested deeper than %d", maxDepth)
	errLarge   = errors.New("its JSON would be too large")
)

// payload is a Payload, Sparkplug 3.0.0 §6.4.5.
type payload struct {
	time    uint64 // ms since 1970
	hasTime bool
	seq     uint64
	hasSeq  bool
	uuid    string
	body    []byte
	metrics []metric
}

// metric is a Metric, Sparkplug 3.0.0 §6.4.6.
type metric struct {
	name       string // empty: by alias
	alias      uint64
	hasAlias   bool
	time       uint64 // ms since 1970
	hasTime    bool
	typ        uint32
	historical bool
	transient  bool
	metadata   []byte // MetaData, not looked into
	properties []byte // PropertySet, not looked into
	value      value  // kindNone: null
}

// parser counts metrics over a whole message.
type parser struct{ metrics int }

func (ps *parser) payload(b []byte) (*payload, error) {
	p := &payload{}
	r := fields{rest: b}
	for f := (field{}); r.next(&f); {
		switch {
		case f.number == 1 && f.wire == wireVarint:
			p.time, p.hasTime = f.n, true
		case f.number == 2 && f.wire == wireBytes:
			m, err := ps.metric(f.b)
			if err != nil {
				return nil, err
			}
			p.metrics = append(p.metrics, m)
		case f.number == 3 && f.wire == wireVarint:
			p.seq, p.hasSeq = f.n, true
		case f.number == 4 && f.wire == wireBytes:
			p.uuid = text(f.b)
		case f.number == 5 && f.wire == wireBytes:
			p.body = f.b
		}
	}
	return p, r.err
}

func (ps *parser) metric(b []byte) (metric, error) {
	var m metric
	if ps.metrics++; ps.metrics > maxMetrics {
		return m, errMetrics
	}
	null := false
	r := fields{rest: b}
	for f := (field{}); r.next(&f); {
		if f.wire == wireVarint && f.number <= 7 {
			m.number(&f, &null)
			continue
		}
		switch {
		case f.number == 1 && f.wire == wireBytes:
			m.name = text(f.b)
		case f.number == 8 && f.wire == wireBytes:
			m.metadata = f.b
		case f.number == 9 && f.wire == wireBytes:
			m.properties = f.b
		default:
			m.value.set(&f, 10, metricKinds)
		}
	}
	if null {
		m.value = value{}
	}
	return m, r.err
}

// number takes one of the fields that are numbers.
func (m *metric) number(f *field, null *bool) {
	switch f.number {
	case 2:
		m.alias, m.hasAlias = f.n, true
	case 3:
		m.time, m.hasTime = f.n, true
	case 4:
		m.typ = knownType(uint32(f.n))
	case 5:
		m.historical = f.n != 0
	case 6:
		m.transient = f.n != 0
	case 7:
		*null = f.n != 0
	}
}

// bdSeq is the number that ties an NDEATH to its NBIRTH, Sparkplug 3.0.0 §5.4.
func (p *payload) bdSeq() (n uint64, ok bool) {
	for i := range p.metrics {
		m := &p.metrics[i]
		if m.name == "bdSeq" && (m.value.kind == kindInt || m.value.kind == kindLong) {
			n, ok = m.value.n, true
		}
	}
	return n, ok
}

// template is a Template, Sparkplug 3.0.0 §6.4.14.
type template struct {
	version, ref string
	definition   bool
	metrics      []metric
	parameters   [][]byte
}

func (ps *parser) template(b []byte) (*template, error) {
	t := &template{}
	r := fields{rest: b}
	for f := (field{}); r.next(&f); {
		switch {
		case f.number == 1 && f.wire == wireBytes:
			t.version = text(f.b)
		case f.number == 2 && f.wire == wireBytes:
			m, err := ps.metric(f.b)
			if err != nil {
				return nil, err
			}
			t.metrics = append(t.metrics, m)
		case f.number == 3 && f.wire == wireBytes:
			if t.parameters = append(t.parameters, f.b); len(t.parameters) > maxColumns {
				return nil, errColumns
			}
		case f.number == 4 && f.wire == wireBytes:
			t.ref = text(f.b)
		case f.number == 5 && f.wire == wireVarint:
			t.definition = f.n != 0
		}
	}
	return t, r.err
}
