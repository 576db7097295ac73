package modbus

import (
	"context"
	"strings"

	mb "github.com/goburrow/modbus"
)

// Identity is what a unit says about itself by function 43/14 (Modbus
// Application Protocol V1.1b3 §6.21); empty where it doesn't.
type Identity struct {
	Vendor   string `json:"vendor,omitempty"`   // object 0
	Product  string `json:"product,omitempty"`  // object 1: its code
	Revision string `json:"revision,omitempty"` // object 2
	URL      string `json:"url,omitempty"`      // object 3
	Name     string `json:"name,omitempty"`     // object 4: the product's name
	Model    string `json:"model,omitempty"`    // object 5
	App      string `json:"app,omitempty"`      // object 6: the user's application
}

// field returns where an object stands; nil for those that have no common meaning.
func (i *Identity) field(id byte) *string {
	fields := []*string{&i.Vendor, &i.Product, &i.Revision, &i.URL, &i.Name, &i.Model, &i.App}
	if int(id) >= len(fields) {
		return nil
	}
	return fields[id]
}

// Levels of 43/14 and what bounds its parts: a unit that never ends must not
// keep anybody waiting.
const (
	basicLevel   = 1
	regularLevel = 2
	maxParts     = 16
)

// Identify asks a unit who it is: the basic objects, and the regular ones if it
// has them. It returns what came before an error.
func (b *Bus) Identify(ctx context.Context, unit int) (Identity, error) {
	var id Identity
	conformity, err := b.objects(ctx, byte(unit), basicLevel, 0, &id)
	if err == nil && conformity&0x7f >= regularLevel {
		// A unit that doesn't have object 3 starts again at 0, which does no harm.
		if _, err := b.objects(ctx, byte(unit), regularLevel, 3, &id); fatal(ctx, err) {
			return id, err
		}
	}
	return id, err
}

// fatal says that there is no sense in asking on.
func fatal(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || !isException(err))
}

// objects reads the objects of a level from the first one on, in as many parts
// as it takes, and returns what the unit conforms to.
func (b *Bus) objects(ctx context.Context, unit, level, first byte, id *Identity) (conformity byte, err error) {
	for range maxParts {
		answer, err := b.ask(ctx, unit, &mb.ProtocolDataUnit{FunctionCode: funcEncapsulated, Data: []byte{meiDeviceID, level, first}})
		if err != nil {
			return conformity, err
		}
		// MEI type, level, conformity, more follows, next object, objects.
		data := answer.Data
		conformity = data[2]
		if err := id.take(data[5], data[6:]); err != nil {
			return conformity, err
		}
		more, next := data[3] == 0xff, data[4]
		if !more || next <= first {
			return conformity, nil
		}
		first = next
	}
	return conformity, invalidf("the identification has no end")
}

// take reads a list of count objects.
func (i *Identity) take(count byte, list []byte) error {
	for range count {
		if len(list) < 2 || len(list) < 2+int(list[1]) {
			return invalidf("the identification is cut off")
		}
		if at := i.field(list[0]); at != nil {
			*at = printable(list[2 : 2+int(list[1])])
		}
		list = list[2+int(list[1]):]
	}
	return nil
}

// ServerID asks a unit for its answer to function 17 (§6.13): bytes whose
// meaning is the device's own.
func (b *Bus) ServerID(ctx context.Context, unit int) ([]byte, error) {
	answer, err := b.ask(ctx, byte(unit), &mb.ProtocolDataUnit{FunctionCode: funcReportServerID})
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), answer.Data[1:]...), nil
}

// printable makes text of what a unit sent: a terminal must not obey it.
func printable(b []byte) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' || r >= 0x80 && r < 0xa0 {
			return '.'
		}
		return r
	}, strings.ToValidUTF8(strings.TrimRight(string(b), "\x00 "), "."))
	return strings.TrimSpace(text)
}

// Printable is the text in bytes that a unit sent, safe for a terminal: what
// can't be shown is a dot.
func Printable(b []byte) string { return printable(b) }
