package sparkplug

import "testing"

// Corners of a metric that encoders do not reach by themselves.
func TestMetrics(t *testing.T) {
	const at = 1486144502122
	for _, c := range []struct {
		name   string
		metric []byte
		want   string // of the event, without time, seq and birth
	}{
		{"null, and a value", named("m", typed(typeInt8), num(7, 1), integer(5)), `{"values":{"m":null}}`},
		{"not null, said so", named("m", typed(typeInt8), num(7, 0), integer(5)), `{"values":{"m":5}}`},
		{"two values: the last counts", named("m", typed(typeInt8), str(15, "x"), integer(5)), `{"values":{"m":5}}`},
		{"values of a wrong wire type", named("m", str(10, "x"), num(12, 1), num(15, 1)), `{"values":{"m":null}}`},
		{"a uint32 of ten bytes", named("m", typed(typeUInt32), integer(1<<64-1)), `{"values":{"m":4294967295}}`},
		{"an unknown data type", named("m", typed(99), integer(5)), `{"values":{"m":5},"quality":{"m":"untyped"}}`},
		{"an extension", named("m", typed(typeInt8), str(19, "x")), `{"values":{"m":null},"quality":{"m":"bad"}}`},
		{"neither name nor alias", mtr(typed(typeInt8), integer(5)), `{"values":{"":5}}`},
		{"historical alone", named("m", typed(typeInt8), num(5, 1), integer(5)), `{"values":{},"history":[{"name":"m","value":5}]}`},
		{"a bad one overtaken", msg(named("m", typed(typeUInt8), integer(256)), named("m", typed(typeUInt8), integer(1))),
			`{"values":{"m":1},"history":[{"name":"m","value":256,"quality":"bad"}]}`},
		{"a stale integer without a type", named("m", integer(5), sub(9, str(1, "Quality"), sub(2, num(3, 500)))), `{"values":{"m":5},"quality":{"m":"stale"}}`},
		{"a property twice", named("m", sub(9, str(1, "k"), str(1, "k"), sub(2, num(3, 1)), sub(2, num(3, 2)))), `{"values":{"m":null},"properties":{"m":{"k":1}}}`},
		{"a null property, and keys without values", named("m", sub(9, str(1, "k"), str(1, "l"), sub(2, num(2, 1), num(3, 1)))), `{"values":{"m":null},"properties":{"m":{"k":null}}}`},
		{"a list of property sets", named("m", sub(9, str(1, "k"), sub(2, sub(10, sub(1, str(1, "a"), sub(2, num(1, typeInt8), num(3, 255))), sub(1))))),
			`{"values":{"m":null},"properties":{"m":{"k":[{"a":-1},{}]}}}`},
		{"a parameter twice", named("m", sub(18, sub(3, str(1, "p"), num(3, 1)), sub(3, str(1, "p"), num(3, 2)))), `{"values":{"m":{"parameters":{"p":1},"values":{}}}}`},
		{"a template with times of its own", named("m", num(3, at), sub(18, named("a", num(3, at), float64Field(1)), named("b", num(3, at+1), float64Field(1)))),
			`{"values":{"m":{"values":{"a":1,"b":1},"times":{"b":"2017-02-03T17:55:02.123Z"}}},"times":{"m":"2017-02-03T17:55:02.122Z"}}`},
		{"packed and unpacked types", named("m", sub(17, str(2, "a"), str(2, "b"), str(3, "\x01"), num(3, 2), sub(4, sub(1, num(1, 255)), sub(1, num(1, 65535)), sub(1, num(1, 7))))),
			`{"values":{"m":{"columns":["a","b"],"types":["Int8","Int16"],"rows":[[-1,-1,7]]}}}`},
	} {
		d, _ := newDecoder(Config{})
		event, _ := got(t, d, "spBv1.0/G/NBIRTH/N", msg(seq(0), c.metric))
		for _, key := range []string{"time", "seq", "birth"} {
			delete(event, key)
		}
		t.Run(c.name, func(t *testing.T) { wants(t, event, c.want) })
	}
}
