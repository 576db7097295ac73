package sparkplug

// scope is what a birth told of the metrics of a node, a device or a template.
//
// Aliases are unique in a node (Sparkplug 3.0.0 §6.4.6), but each birth has
// a table of its own here, since a message only uses aliases of its own birth:
// nodes that number each device from 0 on are understood as well.
type scope struct {
	list    []*definition // in the order of the birth
	byName  map[string]*definition
	byAlias map[uint64]*definition // nil for an alias that two metrics have
	cost    int                    // bytes in memory, about
}

// definition is one metric as its birth told it.
type definition struct {
	name    string
	typ     uint32
	members *scope // of a template
}

// Bytes that things cost in memory beside their names, about.
const (
	costDefinition = 90 // a definition, its places in the list and in the map of names
	costAlias      = 30
	costScope      = 300
	costNode       = 500
)

// learn makes a scope of the metrics of a birth.
func (ps *parser) learn(metrics []metric, depth int) (*scope, error) {
	if depth >= maxDepth {
		return nil, errDepth
	}
	s := &scope{byName: make(map[string]*definition, len(metrics)), byAlias: map[uint64]*definition{}, cost: costScope}
	for i := range metrics {
		m := &metrics[i]
		d := s.byName[m.name]
		if d == nil {
			d = &definition{name: m.name}
			s.byName[m.name] = d
			s.list = append(s.list, d)
			s.cost += costDefinition + len(m.name)
		}
		d.typ = m.typ
		if m.value.kind == kindTemplate {
			t, err := ps.template(m.value.b)
			if err != nil {
				return nil, err
			}
			if d.members, err = ps.learn(t.metrics, depth+1); err != nil {
				return nil, err
			}
			s.cost += d.members.cost
		}
		if m.hasAlias {
			s.alias(m.alias, d)
		}
	}
	return s, nil
}

func (s *scope) alias(n uint64, d *definition) {
	if old, used := s.byAlias[n]; used && old != d {
		d = nil // two metrics with one alias: better no name than the wrong one
	}
	s.byAlias[n] = d
	s.cost += costAlias
}

// find returns what is known of a metric, by its name or else its alias; nil for
// nothing. A nil scope knows nothing.
func (s *scope) find(m *metric) *definition {
	switch {
	case s == nil:
		return nil
	case m.name == "" && m.hasAlias:
		return s.byAlias[m.alias]
	}
	return s.byName[m.name]
}
