// Package profiles holds the register maps of common Modbus devices, in the
// format of a profile of the config, each with its sources. Whoever adds one
// gives at least two sources for each register, or says in the file which
// register has one only: a wrong address is a wrong value.
package profiles

import (
	"embed"
	"slices"
	"strconv"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Profile is one register map.
type Profile struct {
	Name   string // as a device in the config says it, such as eastron-sdm630
	Device string // which devices it is for
	// Limit is how many registers the device takes in one request; 0: as many as
	// the protocol.
	Limit int
	// YAML is the body of the profile: byte_order, base and tags, below comments
	// with the sources.
	YAML []byte
}

// All returns the profiles by name. The result is the caller's.
func All() []Profile {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil // the folder is part of the program
	}
	var all []Profile
	for _, e := range entries {
		if p, ok := Find(strings.TrimSuffix(e.Name(), ".yaml")); ok {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Profile) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Find returns the profile of that name.
func Find(name string) (Profile, bool) {
	if name == "" || strings.ContainsAny(name, "/\\") {
		return Profile{}, false
	}
	body, err := files.ReadFile(name + ".yaml")
	if err != nil {
		return Profile{}, false
	}
	p := Profile{Name: name, YAML: body}
	for line := range strings.Lines(string(body)) {
		text, comment := strings.CutPrefix(line, "# ")
		if !comment {
			break
		}
		key, value, _ := strings.Cut(text, ": ")
		switch value = strings.TrimSpace(value); key {
		case "device":
			p.Device = value
		case "limit":
			p.Limit, _ = strconv.Atoi(value) // a test looks at all files
		}
	}
	return p, true
}

// Config returns the text to paste below modbus: of a source's config.
func (p Profile) Config() string {
	var b strings.Builder
	b.WriteString("profiles:\n  " + p.Name + ":\n")
	for line := range strings.Lines(string(p.YAML)) {
		b.WriteString("    " + line)
	}
	if p.Limit > 0 {
		b.WriteString("    grouping: { max_registers: " + strconv.Itoa(p.Limit) + " }\n")
	}
	return b.String()
}
