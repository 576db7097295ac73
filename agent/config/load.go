package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds the config file: 1 MiB.
const maxFile = 1 << 20

// Options replace what Load and Parse ask the machine for; the zero value asks
// the machine itself.
type Options struct {
	Env      func(name string) (string, bool)  // nil: os.LookupEnv
	ReadFile func(path string) ([]byte, error) // nil: reads regular files
	Hostname func() (string, error)            // nil: os.Hostname

	// Operator reads a config for another machine, or the tools' part of one: a
	// value whose ${…} cannot be expanded here is not judged, and certificates are not
	// looked for.
	Operator bool

	// Tool reads the config of a tool that only reaches a cluster: sources may be
	// missing.
	Tool bool

	// Assembled reads what was assembled from a remote document and the file: what is
	// always the file's (remote.locked) is not judged again.
	Assembled bool
}

// Load reads and checks a config file. The error is a Problems with everything
// that is wrong; the Config is nil then.
func Load(file string, o Options) (*Config, error) {
	x := &expander{readFile: o.ReadFile}
	data, err := x.read(file, maxFile)
	if err != nil {
		do := "name the config with -c FILE or SLUICE_CONFIG"
		if errors.Is(err, fs.ErrPermission) {
			do = "root and the agent's user may read it: sudo"
		}
		return nil, Problems{{File: file, Wrong: err.Error(), Allowed: do}}
	}
	return Parse(file, data, o)
}

// Parse checks the text of a config file. name is the file's name in problems,
// and relative paths in the config start at its folder. Errors are those of Load.
func Parse(name string, data []byte, o Options) (*Config, error) {
	d := newDecoder(name, o)
	hostname := o.Hostname
	if hostname == nil {
		hostname = os.Hostname
	}
	d.run(data, hostname)
	d.cfg.text = data
	if len(d.problems) > 0 {
		d.problems.sort()
		return nil, d.problems
	}
	return d.cfg, nil
}

// Text is the text that the config was read from. It must not be changed.
func (c *Config) Text() []byte { return c.text }

func newDecoder(name string, o Options) *decoder {
	x := &expander{dir: filepath.Dir(name), env: o.Env, readFile: o.ReadFile}
	return &decoder{
		file: name,
		x:    x,
		cfg:  &Config{where: positions{}, fromFile: map[string]string{}, from: x},
		bad:  map[string]bool{},

		operator:  o.Operator,
		tool:      o.Tool,
		assembled: o.Assembled,
	}
}
