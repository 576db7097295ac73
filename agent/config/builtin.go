package config

import (
	"math/big"
	"reflect"
	"slices"
	"strings"

	"sluice/drivers/modbus/profiles"
)

// builtinProfiles adds the built-in profiles that devices name and the file
// doesn't declare, as if they were declared: one that is declared wins. path is
// that of m.
func (d *decoder) builtinProfiles(m *Modbus, path string) {
	for _, dev := range m.Devices {
		if find(m.Profiles, func(p *Profile) bool { return p.Name == dev.Profile }) != nil {
			continue
		}
		known, ok := profiles.Find(dev.Profile)
		if !ok {
			continue
		}
		at := join(path+".devices", dev.Name) + ".profile"
		p, problems := builtinProfile(known, d.all)
		if len(problems) > 0 {
			d.wrong(at, quote(dev.Profile)+" is a built-in profile that this version cannot read: "+problems[0].Path+" "+problems[0].Wrong,
				"declare it without that; sluice modbus profile "+dev.Profile+" prints it")
			d.bad[join(path+".devices", dev.Name)] = true
		}
		m.Profiles = append(m.Profiles, p)
		if known.Limit > 0 {
			limit := min(m.Grouping.MaxRegisters, known.Limit)
			m.Profiles[len(m.Profiles)-1].Grouping = &OwnGrouping{MaxRegisters: &limit}
		}
	}
}

// builtinProfile reads a built-in profile as if it stood in a file. all takes
// what this version does not build.
func builtinProfile(known profiles.Profile, all bool) (Profile, Problems) {
	d := newDecoder("built-in profile "+known.Name, Options{})
	d.all = all
	p := Profile{Name: known.Name}
	if body := d.parse(known.YAML); body != nil {
		d.structure(reflect.ValueOf(&p).Elem(), body, "")
	}
	return p, d.problems
}

// knownProfiles lists the names that a device may give, for problems.
func knownProfiles(m *Modbus) string {
	var builtin []string
	for _, p := range profiles.All() {
		builtin = append(builtin, p.Name)
	}
	declared := slices.DeleteFunc(slices.Clone(m.Profiles), func(p Profile) bool { return slices.Contains(builtin, p.Name) })
	return names(declared, func(p Profile) string { return p.Name }) + "; built in: " + strings.Join(builtin, ", ")
}

// checkMissing needs a number that the tag's bits can have.
func (d *decoder) checkMissing(t *Tag, path string) {
	if t.Missing == "" {
		return
	}
	at := path + ".missing"
	n, ok := new(big.Int).SetString(t.Missing, 0)
	size := uint(16 * t.registers())
	low := new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), size-1))
	switch {
	case slices.Contains([]string{"bool", "string", "bytes"}, t.Type) || strings.HasSuffix(t.Type, "int8"):
		d.wrong(at, "is only for numbers of whole registers, and the type is "+t.Type, "leave it out")
	case !ok:
		d.wrong(at, d.show(at, t.Missing)+" is not a whole number", "such as 0x80000000 or -32768")
	case n.BitLen() > int(size) || n.Cmp(low) < 0:
		d.wrong(at, d.show(at, t.Missing)+" does not fit the type "+t.Type, "a number of "+big.NewInt(int64(size)).String()+" bits")
	}
}
